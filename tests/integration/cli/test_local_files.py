"""Local files on the command line: what they become, and that nothing that is in the bucket is ever overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2v.cli.local import uploads
from i2v.cli.local.files import Named, find
from i2v.cli.local.uploads import UploadCandidate, keep_rows
from i2v.errors import NoImages, UsageError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg, make_png
from tests.support.settings import SealedSettings

MOVES = RequestOptions(prompt="it moves")


@pytest.fixture
def storage(sandbox: Sandbox) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage(sandbox.s3()) as storage:
        yield storage


def put_file(path: Path, body: bytes = b"") -> Path:
    """A file with its folders; a small JPEG where no body is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body or make_jpeg(400, 400))
    return path


NOWHERE = SealedSettings(I2V_BUCKET="my-bucket")
"""For tests that never ask S3."""


def keys(named: Named) -> list[str]:
    """The keys that local files will have."""
    return [image.uri.key for image in named.local]


async def judged(
    named: Named, settings: Settings, default: RequestOptions = MOVES
) -> tuple[list[UploadCandidate], list[ItemReport]]:
    """What would be put, and what is refused."""
    return await uploads.judge(named.local, default, settings, lambda: None)


def test_a_folders_images_keep_their_paths_in_it(tmp_path: Path) -> None:
    """`photos/cats/tom.jpg` of the folder `photos` becomes `images/cats/tom.jpg`; what is hidden or no image stays."""
    for name in ("cats/tom.jpg", "b.PNG", "c.jpeg", "notes.txt", ".hidden.jpg", ".git/x.jpg", "tom.jpg.txt"):
        put_file(tmp_path / name)
    assert keys(find([str(tmp_path)], NOWHERE)) == ["images/b.PNG", "images/c.jpeg", "images/cats/tom.jpg"]


async def test_a_local_image_has_its_folders_prompt(tmp_path: Path) -> None:
    """A prompt by prefix holds for a file by the key that it will have, as it does for an object with that key."""
    put_file(tmp_path / "cats/tom.jpg")
    settings = SealedSettings(I2V_BUCKET="my-bucket", I2V_PROMPTS_BY_PREFIX='{"cats/": "it purrs"}')
    (good,), _ = await judged(find([str(tmp_path)], settings), settings, RequestOptions())
    assert good.request.prompt == "it purrs"


def test_a_single_file_is_put_by_its_name(tmp_path: Path) -> None:
    """A file that is named itself may be named anything, and what is not local is left to the flow."""
    named = find([str(put_file(tmp_path / "far/away/tom")), "s3://other/x/", "https://example.org/a.jpg"], NOWHERE)
    assert (keys(named), named.remote) == (["images/tom"], ("s3://other/x/", "https://example.org/a.jpg"))


def test_one_file_named_twice_is_one_image(tmp_path: Path) -> None:
    """A file and its folder are no collision."""
    put_file(tmp_path / "tom.jpg")
    assert len(find([str(tmp_path), str(tmp_path / "tom.jpg")], NOWHERE).local) == 1


def test_two_files_with_one_key_are_told_apart(tmp_path: Path) -> None:
    """Neither of two different files silently stands for the other."""
    one, other = put_file(tmp_path / "a/tom.jpg"), put_file(tmp_path / "b/tom.jpg")
    with pytest.raises(
        UsageError, match=r"a/tom\.jpg and .*b/tom\.jpg would both become s3://my-bucket/images/tom\.jpg"
    ):
        find([str(one), str(other)], NOWHERE)


@pytest.mark.parametrize("name", ["_url/x.jpg", "_s3/b/x.jpg", "_long/x.jpg"])
def test_a_folder_that_is_named_like_ours_is_refused(tmp_path: Path, name: str) -> None:
    """No image takes the name of one from elsewhere."""
    put_file(tmp_path / name)
    with pytest.raises(UsageError, match="may begin so"):
        find([str(tmp_path)], NOWHERE)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    """A run over nothing says so."""
    with pytest.raises(NoImages, match="No image in"):
        find([str(tmp_path)], NOWHERE)


def test_a_manifest_names_files_relative_to_itself(tmp_path: Path) -> None:
    """Rows may name local files and images elsewhere, each with what is asked for it."""
    put_file(tmp_path / "wishes/cats/tom.jpg")
    put_file(tmp_path / "away.jpg")
    rows = "image,prompt,mode\ncats/tom.jpg,purr,pro\n../away.jpg,,\ns3://other/b.jpg,fly,\n"
    named = find([str(put_file(tmp_path / "wishes/list.csv", rows.encode()))], NOWHERE)
    assert keys(named) == ["images/cats/tom.jpg", "images/away.jpg"]
    assert named.local[0].asked == RequestOptions(prompt="purr", mode=Mode.PRO)
    assert [(row.image, row.prompt) for row in named.remote if not isinstance(row, str)] == [
        ("s3://other/b.jpg", "fly")
    ]


def test_a_manifests_missing_files_are_all_told(tmp_path: Path) -> None:
    """All lines that are wrong are named at once."""
    manifest = put_file(tmp_path / "list.jsonl", b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n')
    with pytest.raises(UsageError, match=r"line 1, .*a\.jpg; line 2, .*b\.jpg"):
        find([str(manifest)], NOWHERE)


async def test_the_file_beside_an_image_goes_before_what_was_typed(tmp_path: Path) -> None:
    """Manifest, then `tom.jpg.txt`, then --prompt, which knows the image's name; then the settings."""
    put_file(tmp_path / "tom.jpg")
    put_file(tmp_path / "tom.jpg.txt", b"purr\n")
    put_file(tmp_path / "eve.jpg")
    goods, _ = await judged(find([str(tmp_path)], NOWHERE), NOWHERE, RequestOptions(prompt="{stem} runs"))
    assert [good.request.prompt for good in goods] == ["eve runs", "purr"]


async def test_what_is_wrong_is_refused_and_not_put(tmp_path: Path) -> None:
    """A refused file is a line of the report under the address that it would have had."""
    put_file(tmp_path / "small.jpg", make_jpeg(300, 400))
    put_file(tmp_path / "large.jpg", b"\xff\xd8" + bytes(20_000_001))
    goods, refused = await judged(find([str(tmp_path)], NOWHERE), NOWHERE)
    assert (0, {Outcome.REFUSED}) == (len(goods), {item.outcome for item in refused})
    assert [item.image for item in refused] == ["s3://my-bucket/images/large.jpg", "s3://my-bucket/images/small.jpg"]
    assert all(words in str(item.reason) for words, item in zip(("too large", "too small"), refused, strict=True))


async def test_a_file_is_put_with_its_request(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """Type by the bytes, and the request as metadata, so that a door comes to the same job."""
    put_file(tmp_path / "tom.jpg", make_png(400, 400))
    goods, _ = await judged(find([str(tmp_path)], settings), settings, RequestOptions(prompt="Öl läuft", mode=Mode.PRO))
    await uploads.put(storage, goods, lambda: None)
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key="images/tom.jpg")
    assert (head["ContentType"], head["Metadata"]["mode"], head["Metadata"]["duration"]) == ("image/png", "pro", "6")
    assert sandbox.read("images/tom.jpg") == make_png(400, 400)
    row = goods[0].row
    assert (row.prompt, row.mode, row.duration, row.take) == ("Öl läuft", Mode.PRO, 6, 1)


async def test_a_prompt_too_long_for_metadata_lies_beside(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """What does not fit into metadata is put as `tom.jpg.txt`, and whoever finds the image finds it too."""
    put_file(tmp_path / "tom.jpg")
    goods, _ = await judged(find([str(tmp_path)], settings), settings, RequestOptions(prompt="ä" * 2000))
    await uploads.put(storage, goods, lambda: None)
    assert sandbox.read("images/tom.jpg.txt").decode() == "ä" * 2000


async def test_the_same_file_again_is_used_as_it_is(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """An object with the same bytes is not written again, whatever is asked for it now."""
    put_file(tmp_path / "tom.jpg")
    for prompt in ("one", "two"):
        goods, _ = await judged(find([str(tmp_path)], settings), settings, RequestOptions(prompt=prompt))
        await uploads.put(storage, goods, lambda: None)
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key="images/tom.jpg")
    assert head["Metadata"]["prompt"] == "one"


async def test_another_image_at_the_key_is_never_overwritten(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """A conflict is told before anything is put, and touches nothing."""
    there = make_jpeg(400, 400, seed=7)
    sandbox.put_image("images/tom.jpg", there)
    put_file(tmp_path / "tom.jpg")
    put_file(tmp_path / "eve.jpg")
    goods, _ = await judged(find([str(tmp_path)], settings), settings)
    with pytest.raises(
        UsageError, match=r"images/tom\.jpg holds another image than .*tom\.jpg, and is not overwritten"
    ):
        await uploads.put(storage, goods, lambda: None)
    assert (["images/tom.jpg"], there) == (sandbox.keys(), sandbox.read("images/tom.jpg"))


async def test_an_image_that_appears_meanwhile_is_not_overwritten(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """The put itself is conditional: between looking and putting nobody's image is lost."""
    put_file(tmp_path / "tom.jpg")
    goods, _ = await judged(find([str(tmp_path)], settings), settings)
    sandbox.put_image("images/tom.jpg", b"another's")
    with pytest.raises(UsageError, match="is not overwritten"):
        await uploads._put_one(storage, goods[0])  # noqa: SLF001 - the step after the look
    assert sandbox.read("images/tom.jpg") == b"another's"


async def test_many_rows_become_a_manifest_that_a_run_reads(
    sandbox: Sandbox, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    """What is too much for a parameter lies beside the ledger, and gives the same images."""
    put_file(tmp_path / "tom.jpg")
    goods, _ = await judged(find([str(tmp_path)], settings), settings)
    place = await keep_rows(storage, settings, [good.row for good in goods])
    (item,) = await find_items([place], storage, settings)
    assert place.startswith(f"s3://{sandbox.bucket}/jobs/inputs/")
    assert (str(goods[0].image.uri), goods[0].row.asked) == (item.ref.label, item.asked)
    assert json.loads(sandbox.read(place.removeprefix(f"s3://{sandbox.bucket}/")))["prompt"] == "it moves"
