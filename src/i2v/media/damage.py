"""Why a picture is not whole: `Damaged`, which `i2v.media.image_check` turns into a refusal."""


class Damaged(Exception):
    """Data of an image is missing or wrong; the message says what."""
