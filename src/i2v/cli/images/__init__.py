"""The images that a command names: local files, their upload, and the flow's parameter `images`.

Flows read images only from S3 or by URL, so uploads belong here. Keep out how a batch file is parsed (`i2v.inputs`).
"""
