"""Where the outside comes in: the long-lived service that turns bucket notifications into flow runs.

notifications   what a payload says, pure              gather   many items, one run; generic
queue           the only boto3 here: SQS               receive  the loop over the queue
runs            Prefect: flow runs of a deployment     app      HTTP: POST /s3, /healthz, /metrics
metrics, ledger_gauges   what Prometheus reads         service  puts it together, starts and stops it
`python -m doors` runs it. Nothing here pays, and nothing here knows flows or tasks.
"""
