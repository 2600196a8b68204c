"""From an image to its video: validate, submit, poll, store, in this order, and what a run shares between them.

`generate` runs a batch, `video_order` describes one job to be paid. Add a step's logic to the module of its name. Keep
out Prefect (`tasks`, `prefect_support`) and repairs of earlier runs (`i2v.recovery`).
"""
