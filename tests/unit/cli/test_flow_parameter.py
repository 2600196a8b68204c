"""The flow's parameter `images`: Prefect stores it, so no secret may be in it."""

from pathlib import Path

from i2v.cli.images.flow_parameter import without_signed_urls
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.sources import refuse_signed_urls


def test_signed_urls_move_into_a_temporary_file() -> None:
    """URLs with a query or a password are handed over in a file that is deleted afterwards, and others directly."""
    plain: list[str | BatchRow] = ["s3://b-1/images/a?sig=1.jpg", "https://example.org/a.jpg"]
    secret: list[str | BatchRow] = [
        "https://example.org/b.jpg?sig=SECRET",
        BatchRow(image="https://u:SECRET@example.org/c.jpg", prompt="p"),
    ]
    with without_signed_urls([*plain, *secret]) as images:
        assert images[:-1] == plain
        refuse_signed_urls(images)
        file = Path(str(images[-1]))
        assert file.read_text().count("SECRET") == len(secret)
    assert not file.exists()
