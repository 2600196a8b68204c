"""The door, a service that turns bucket notifications and provider callbacks into flow runs: `python -m doors`.

http              the routes and the HTTP server      gallery            the routes of /gallery
sqs_receiver      the loop over the queue             sqs_queue          the only boto3 calls
s3_notifications  parse a payload; pure               image_intake       new images become runs
batcher           many items, one call; generic       flow_run_starter   the only calls that start a run
metrics           what Prometheus scrapes             ledger_gauges, prefect_gauges, sqs_gauges   its gauges
health            the state of queue and Prefect      service            wire it up, start, stop

The doors never submit a job, and import neither flows nor tasks.
"""
