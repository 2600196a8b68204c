"""What a run is asked to do: sources of images, batch files, and where each image's prompt comes from.

Add a new kind of input here. Keep out the validation of image bytes (`i2v.media`).
"""
