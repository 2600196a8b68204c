"""The paid provider: APIXO, model Hailuo 2.3 Fast (docs/provider.md).

`models` is its contract, `answers` an HTTP answer and its envelope, `errors` what an answer means for the money,
`callbacks` the signed callback URL, `client` the requests, `transport` their connections. What i2v does about an answer
is in `i2v.pipeline`.
"""
