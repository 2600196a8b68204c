"""The long-lived service that turns bucket notifications and provider callbacks into flow runs: `python -m doors`.

app            HTTP routes: POST /s3, /healthz, /metrics   notifications      parse a payload; pure
callbacks      HTTP route: POST /apixo/…                   batcher            many items, one flow run; generic
gallery        HTTP routes: /gallery                       flow_run_starter   the only calls to Prefect
sqs_receiver   the loop over the queue                     sqs_queue          the only boto3 calls
image_intake   what routes and receiver share              service            wire it up, start, stop
ledger_gauges, metrics   what Prometheus scrapes           health             the state of queue and Prefect
request_body   read a body with limits

The doors never submit a job, and import neither flows nor tasks.
"""
