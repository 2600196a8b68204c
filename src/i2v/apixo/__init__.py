"""The paid provider, APIXO, model Hailuo 2.3 Fast, as its own pages describe it.

`models` is its contract, `answers` what came over the wire, `errors` what an answer means for the money, `pricing` what
it costs, `client` the only place that speaks HTTP with it. What we decide to do with all that lies outside.
"""
