"""Local files on the command line: their keys, their upload, and that no object is ever overwritten."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from i2v.cli.images import uploads
from i2v.cli.images.flow_parameter import within_limit
from i2v.cli.images.local_files import NamedImages, find_named_images
from i2v.cli.images.uploads import UploadCandidate
from i2v.cli.output.progress import Progress
from i2v.errors import NoImages, UsageError
from i2v.inputs.custom_columns import columns_in_metadata
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg, make_png
from tests.support.settings import SealedSettings

QUIET = Progress(Console(file=io.StringIO()))
MOVES = RequestOptions(prompt="it moves")


@pytest.fixture
def storage(sandbox: Sandbox) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage(sandbox.s3()) as storage:
        yield storage


def put_file(path: Path, body: bytes = b"") -> Path:
    """Write a file and its folders; the default is a small JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body or make_jpeg(400, 400))
    return path


NOWHERE = SealedSettings(I2V_BUCKET="my-bucket")
"""For tests that never ask S3."""


def keys(named: NamedImages) -> list[str]:
    """Return the keys that local files will have."""
    return [image.uri.key for image in named.local]


async def validate(
    named: NamedImages, settings: Settings, default: RequestOptions = MOVES
) -> tuple[list[UploadCandidate], list[ItemReport]]:
    """Return the valid images and the refused ones."""
    return await uploads.validate(named.local, default, settings, QUIET)


def test_images_keep_their_paths_inside_the_folder(tmp_path: Path) -> None:
    """`photos/cats/tom.jpg` becomes `images/cats/tom.jpg`; hidden files and other files are left out."""
    for name in ("cats/tom.jpg", "b.PNG", "c.jpeg", "notes.txt", ".hidden.jpg", ".git/x.jpg", "tom.jpg.txt"):
        put_file(tmp_path / name)
    assert keys(find_named_images([str(tmp_path)], NOWHERE)) == ["images/b.PNG", "images/c.jpeg", "images/cats/tom.jpg"]


async def test_a_local_image_has_the_prompt_of_its_prefix(tmp_path: Path) -> None:
    """A prompt by prefix applies to a file by its future key, as it does to an object with that key."""
    put_file(tmp_path / "cats/tom.jpg")
    settings = SealedSettings(I2V_BUCKET="my-bucket", I2V_PROMPTS_BY_PREFIX='{"cats/": "it purrs"}')
    (candidate,), _ = await validate(find_named_images([str(tmp_path)], settings), settings, RequestOptions())
    assert candidate.request.prompt == "it purrs"


def test_a_single_file_is_uploaded_by_its_name(tmp_path: Path) -> None:
    """A named file may have any suffix, and URIs and URLs are passed on to the flow."""
    named = find_named_images(
        [str(put_file(tmp_path / "far/away/tom")), "s3://other/x/", "https://example.org/a.jpg"], NOWHERE
    )
    assert (keys(named), named.remote) == (["images/tom"], ("s3://other/x/", "https://example.org/a.jpg"))


def test_one_file_named_twice_is_one_image(tmp_path: Path) -> None:
    """Naming a file and its folder is not a collision."""
    put_file(tmp_path / "tom.jpg")
    assert len(find_named_images([str(tmp_path), str(tmp_path / "tom.jpg")], NOWHERE).local) == 1


def test_two_files_with_the_same_key_are_wrong_usage(tmp_path: Path) -> None:
    """The error names both files and their key."""
    one, other = put_file(tmp_path / "a/tom.jpg"), put_file(tmp_path / "b/tom.jpg")
    with pytest.raises(
        UsageError, match=r"a/tom\.jpg and .*b/tom\.jpg would both be uploaded to s3://my-bucket/images/tom\.jpg"
    ):
        find_named_images([str(one), str(other)], NOWHERE)


@pytest.mark.parametrize("name", ["_url/x.jpg", "_s3/b/x.jpg", "_long/x.jpg"])
def test_a_folder_with_a_reserved_name_is_wrong_usage(tmp_path: Path, name: str) -> None:
    """No local file gets a key that is reserved for images from other buckets and URLs."""
    put_file(tmp_path / name)
    with pytest.raises(UsageError, match="is reserved"):
        find_named_images([str(tmp_path)], NOWHERE)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    """A folder without images raises `NoImages`."""
    with pytest.raises(NoImages, match="No images found in"):
        find_named_images([str(tmp_path)], NOWHERE)


def test_a_batch_file_names_files_relative_to_itself(tmp_path: Path) -> None:
    """Rows may name local files, URIs and URLs, each with its options."""
    put_file(tmp_path / "wishes/cats/tom.jpg")
    put_file(tmp_path / "away.jpg")
    rows = "image,prompt,mode\ncats/tom.jpg,purr,pro\n../away.jpg,,\ns3://other/b.jpg,fly,\n"
    named = find_named_images([str(put_file(tmp_path / "wishes/list.csv", rows.encode()))], NOWHERE)
    assert keys(named) == ["images/cats/tom.jpg", "images/away.jpg"]
    assert named.local[0].options == RequestOptions(prompt="purr", mode=Mode.PRO)
    assert [(row.image, row.prompt) for row in named.remote if not isinstance(row, str)] == [
        ("s3://other/b.jpg", "fly")
    ]


def test_all_missing_files_of_a_batch_file_are_reported(tmp_path: Path) -> None:
    """One error names all lines whose file is missing."""
    batch_file = put_file(tmp_path / "list.jsonl", b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n')
    with pytest.raises(UsageError, match=r"line 1, .*a\.jpg; line 2, .*b\.jpg"):
        find_named_images([str(batch_file)], NOWHERE)


async def test_a_sidecar_overrides_the_prompt_option(tmp_path: Path) -> None:
    """`tom.jpg.txt` overrides `--prompt`, which is a template."""
    put_file(tmp_path / "tom.jpg")
    put_file(tmp_path / "tom.jpg.txt", b"purr\n")
    put_file(tmp_path / "eve.jpg")
    candidates, _ = await validate(
        find_named_images([str(tmp_path)], NOWHERE), NOWHERE, RequestOptions(prompt="{stem} runs")
    )
    assert [candidate.request.prompt for candidate in candidates] == ["eve runs", "purr"]


async def test_invalid_files_are_refused(tmp_path: Path) -> None:
    """A refused file is in the report under the URI that it would have had."""
    put_file(tmp_path / "small.jpg", make_jpeg(300, 400))
    put_file(tmp_path / "large.jpg", b"\xff\xd8" + bytes(20_000_001))
    candidates, refused = await validate(find_named_images([str(tmp_path)], NOWHERE), NOWHERE)
    assert (0, {Outcome.REFUSED}) == (len(candidates), {item.outcome for item in refused})
    assert [item.image for item in refused] == ["s3://my-bucket/images/large.jpg", "s3://my-bucket/images/small.jpg"]
    assert all(words in str(item.reason) for words, item in zip(("too large", "too small"), refused, strict=True))


async def test_a_file_is_uploaded_with_its_request(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """The content type comes from the bytes, and the request is stored as metadata."""
    put_file(tmp_path / "tom.jpg", make_png(400, 400))
    candidates, _ = await validate(
        find_named_images([str(tmp_path)], settings), settings, RequestOptions(prompt="Öl läuft", mode=Mode.PRO)
    )
    await uploads.upload(storage, candidates, QUIET)
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key="images/tom.jpg")
    assert (head["ContentType"], head["Metadata"]["mode"], head["Metadata"]["duration"]) == ("image/png", "pro", "6")
    assert sandbox.read("images/tom.jpg") == make_png(400, 400)
    row = candidates[0].row
    assert (row.prompt, row.mode, row.duration, row.take) == ("Öl läuft", Mode.PRO, 6, 1)


async def test_a_file_is_uploaded_with_its_custom_columns(
    sandbox: Sandbox, storage: Storage, settings: Settings, tmp_path: Path
) -> None:
    """They are in the run's row and in the metadata, unless they do not fit there."""
    put_file(tmp_path / "a.jpg")
    put_file(tmp_path / "b.jpg")
    file = tmp_path / "rows.csv"
    file.write_text(f"image,sku,note,more\na.jpg,Ä-1,,\nb.jpg,B,{'ü' * 500},{'ü' * 300}\n")
    candidates, _ = await validate(find_named_images([str(file)], settings), settings)
    await uploads.upload(storage, candidates, QUIET)
    heads = [sandbox.s3().head_object(Bucket=sandbox.bucket, Key=f"images/{name}.jpg")["Metadata"] for name in "ab"]

    columns = [{"sku": "Ä-1"}, {"sku": "B", "note": "ü" * 500, "more": "ü" * 300}]
    assert [dict(candidate.row.extra) for candidate in candidates] == columns
    assert columns_in_metadata(heads[0], "a.jpg") == (("sku", "Ä-1"),)
    assert heads[1] == {"prompt": "it moves", "mode": "standard", "duration": "6"}


async def test_a_prompt_too_long_for_metadata_becomes_a_sidecar(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """A prompt that does not fit into metadata is uploaded as `tom.jpg.txt`."""
    put_file(tmp_path / "tom.jpg")
    candidates, _ = await validate(
        find_named_images([str(tmp_path)], settings), settings, RequestOptions(prompt="ä" * 2000)
    )
    await uploads.upload(storage, candidates, QUIET)
    assert sandbox.read("images/tom.jpg.txt").decode() == "ä" * 2000


async def test_the_same_file_is_not_uploaded_again(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """An object with the same bytes is not written again, even if the request differs."""
    put_file(tmp_path / "tom.jpg")
    for prompt in ("one", "two"):
        candidates, _ = await validate(
            find_named_images([str(tmp_path)], settings), settings, RequestOptions(prompt=prompt)
        )
        await uploads.upload(storage, candidates, QUIET)
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key="images/tom.jpg")
    assert head["Metadata"]["prompt"] == "one"


async def test_an_existing_image_is_never_overwritten(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """A conflict is reported before the first upload, and changes nothing."""
    there = make_jpeg(400, 400, seed=7)
    sandbox.put_image("images/tom.jpg", there)
    put_file(tmp_path / "tom.jpg")
    put_file(tmp_path / "eve.jpg")
    candidates, _ = await validate(find_named_images([str(tmp_path)], settings), settings)
    with pytest.raises(
        UsageError, match=r"images/tom\.jpg exists with other content than .*tom\.jpg, and is not overwritten"
    ):
        await uploads.upload(storage, candidates, QUIET)
    assert (["images/tom.jpg"], there) == (sandbox.keys(), sandbox.read("images/tom.jpg"))


async def test_an_image_that_appears_during_the_upload_is_not_overwritten(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """The upload itself is conditional, so an object that appears after the check is kept."""
    put_file(tmp_path / "tom.jpg")
    candidates, _ = await validate(find_named_images([str(tmp_path)], settings), settings)
    sandbox.put_image("images/tom.jpg", b"another's")
    with pytest.raises(UsageError, match="is not overwritten"):
        await uploads._put(storage, candidates[0])  # noqa: SLF001 - the step after the check
    assert sandbox.read("images/tom.jpg") == b"another's"


async def test_many_rows_become_a_batch_file_that_a_run_reads(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """Rows that are too large for a parameter are put into the bucket, and name the same images."""
    put_file(tmp_path / "tom.jpg")
    candidates, _ = await validate(find_named_images([str(tmp_path)], settings), settings)
    row = candidates[0].row
    (uri,) = await within_limit([row] * 5000, storage, settings)
    (item,) = await find_items([uri], storage, settings)
    assert str(uri).startswith(f"s3://{sandbox.bucket}/jobs/inputs/")
    assert (str(candidates[0].image.uri), candidates[0].row.options) == (item.ref.label, item.options)
    first, *_ = sandbox.read(str(uri).removeprefix(f"s3://{sandbox.bucket}/")).splitlines()
    assert json.loads(first)["prompt"] == "it moves"
