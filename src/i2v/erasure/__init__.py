"""Erasing what i2v has of an image (`i2v forget`): `selection` and `search` find it, `erase` deletes it.

`documents` is the list of documents that name several images. Add a new one there, and a new object in `search`. A
verdict is the `.refused.json` or `.failed.json` that says why an image has no video.
"""
