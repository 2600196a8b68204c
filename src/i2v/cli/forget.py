"""`i2v forget`: erase what i2v has of images, for a person who asks for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from i2v.advised_commands import command, program
from i2v.cli import options
from i2v.cli.jobs import with_ledger
from i2v.cli.output.console import print_json, stdout
from i2v.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from i2v.erasure.erase import Erasure
    from i2v.erasure.selection import Selection
    from i2v.ledger.ledger import Ledger
    from i2v.s3_uri import S3Uri

MOST_KEYS = 20
"""Keys that are shown of one image; `--json` has all."""
NOT_REACHED = (
    "the provider's copies of image, prompt and video, and its result URLs: ask the provider",
    "Prefect's history: parameters, names, artifacts, logs, events and cached results of flow runs",
    "batch files and prompts of your own, backups and replicas of the bucket, and S3 access logs",
    "tables in another place (i2v export --out), until the next export there; versions of their files",
    "logs and traces of workers and the door, and copies that people downloaded",
)
EPILOG = f"""
\b
Examples:
{program()} forget s3://my-bucket/images/cats/tom.jpg --dry-run
{program()} forget --prefix s3://my-bucket/images/jane/ --with-images --yes

Exit codes: 0 nothing is left; 1 something is left, which is named; 2 wrong usage, or nothing was found.
"""


def forget(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES…", show_default=False, help="s3://bucket/key or the URLs of images."),
    ] = None,
    *,
    prefix: Annotated[
        str | None, typer.Option(metavar="P", show_default=False, help="All images under s3://bucket/prefix/.")
    ] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Also delete the images themselves and their prompt files (.txt).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: options.Json = False,
) -> None:
    """Erase videos, prompts and names of images, in all versions.

    Hashes, costs and times stay, so that the books agree. Afterwards only `i2v run IMAGE` makes a video of the image
    again: not nightly, the door, a prefix or a batch file. The image itself stays without --with-images. An image with
    an open job stays as it is: its video is paid or possibly paid.
    """
    if bool(images) == bool(prefix):
        raise UsageError("Use either images or --prefix", f"See: {command('forget', '--help')}")

    async def work(ledger: Ledger) -> tuple[Selection, Erasure | None]:
        from i2v.erasure.erase import erase
        from i2v.erasure.search import search
        from i2v.erasure.selection import Selection

        selection = Selection(ledger.settings, _prefix(prefix))
        selection.add(images or ())
        await search(ledger, selection)
        _check_found(selection)
        if dry_run:
            return selection, None
        if not yes:
            _confirm(selection, with_images=with_images)
        return selection, await erase(ledger, selection, with_images=with_images)

    selection, erasure = with_ledger(work)
    _print(selection, erasure, with_images=with_images, as_json=as_json)
    if erasure and not erasure.is_complete:
        raise typer.Exit(ExitCode.FAILED)


def _prefix(text: str | None) -> S3Uri | None:
    """Parse the prefix. Raise `UsageError` for a whole bucket, and for anything that does not end in a slash."""
    from i2v.s3_uri import S3Uri

    try:
        prefix = S3Uri.parse(text) if text else None
    except ValueError:
        raise UsageError(f"{text!r} is not an S3 URI", "Use --prefix s3://bucket/prefix/") from None
    if prefix and not (prefix.key and prefix.is_prefix):
        raise UsageError(f"{prefix} is not a prefix that ends in /", "Use --prefix s3://bucket/prefix/")
    return prefix


def _check_found(selection: Selection) -> None:
    unknown = [image.label for image in selection.images.values() if not image.is_known]
    if unknown or not selection.images:
        named = ", ".join(unknown[:3]) or str(selection.prefix)
        raise UsageError(f"Nothing is known of {named}", "Check the address: nothing was erased")


def _confirm(selection: Selection, *, with_images: bool) -> None:
    sys.stderr.write("\n".join(_plan(selection, with_images=with_images)) + "\n")
    if not sys.stdin.isatty():
        raise UsageError("Cannot ask for confirmation: stdin is not a terminal", "Add --yes to confirm")
    typer.confirm("Erase this for good?", abort=True, err=True)


def _plan(selection: Selection, *, with_images: bool) -> Iterator[str]:
    """Yield what would be erased, by image."""
    from i2v.erasure.open_jobs import what_to_do

    for image in selection.images.values():
        counts = [
            _count(len(image.outputs), "output"),
            _count(len(image.published), "published copy", "published copies"),
            _count(len(image.jobs), "job record"),
            _count(image.documents, "report or page", "reports and pages"),
        ]
        yield f"{image.label}: {', '.join(counts)}"
        yield from (f"  not yet: {what_to_do(record)}" for record in selection.open_jobs(image))
        keys = [*map(str, image.outputs), *map(str, image.published), *map(str, sorted(image.inputs))]
        keys += [str(image.uri)] if with_images and image.uri else []
        yield from (f"  {key}" for key in keys[:MOST_KEYS])
        if len(keys) > MOST_KEYS:
            yield f"  … and {len(keys) - MOST_KEYS:,} more"
        yield from (f"  same content, and its video stays: {label}" for label in sorted(image.shared_with))
    if selection.tables:
        yield f"and their rows in the tables in {selection.tables}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _print(selection: Selection, erasure: Erasure | None, *, with_images: bool, as_json: bool) -> None:
    if as_json:
        print_json(_as_object(selection, erasure, with_images=with_images))
        return
    console = stdout()
    for line in _plan(selection, with_images=with_images) if erasure is None else _done(erasure):
        console.print(line, soft_wrap=True)
    kept = [] if with_images else [str(image.uri) for image in selection.images.values() if image.uri]
    if kept:
        more = f" and {len(kept) - 1:,} more" if len(kept) > 1 else ""
        console.print(f"kept: {kept[0]}{more}, and prompt files; --with-images deletes them", soft_wrap=True)
    for place in NOT_REACHED:
        console.print(f"not reached: {place}", soft_wrap=True)


def _done(erasure: Erasure) -> Iterator[str]:
    for image in erasure.erased:
        yield f"forgotten: {image.label}"
        yield from (f"  same content, and its video stays: {label}" for label in sorted(image.shared_with))
    rewritten = _count(erasure.rewritten, "record or report", "records and reports")
    yield f"{_count(erasure.deleted, 'object or version', 'objects and versions')} deleted, {rewritten} rewritten"
    for label, why in erasure.refused.items():
        yield f"not forgotten: {label}: {why}"
    for left in erasure.left:
        yield f"left: {left.uri}: {left.why}"


def _as_object(selection: Selection, erasure: Erasure | None, *, with_images: bool) -> dict[str, Any]:
    images = selection.images.values() if erasure is None else erasure.erased
    return {
        "dry_run": erasure is None,
        "images": [
            {
                "image": image.label,
                "jobs": sorted(image.jobs),
                "open_jobs": [record.key for record in selection.open_jobs(image)],
                "outputs": [*map(str, image.outputs)],
                "published": [*map(str, image.published)],
                "inputs": sorted(map(str, image.inputs)),
                "documents": image.documents,
                "same_content": sorted(image.shared_with),
                "image_deleted": with_images and erasure is not None and image.uri is not None,
            }
            for image in images
        ],
        "tables": str(selection.tables) if selection.tables else None,
        "deleted": erasure.deleted if erasure else 0,
        "rewritten": erasure.rewritten if erasure else 0,
        "not_forgotten": [
            {"image": label, "reason": why} for label, why in (erasure.refused if erasure else {}).items()
        ],
        "left": [{"object": str(one.uri), "reason": one.why} for one in (erasure.left if erasure else ())],
        "not_reached": list(NOT_REACHED),
    }
