"""The documents that name several images, and how an image is taken out of each. Add a document to `DOCUMENTS`.

Hash, cost and times stay, so that sums agree: of a line, the fields in `KEPT`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import ValidationError

from i2v.erasure.selection import FoundImage, Selection
from i2v.ledger.attempt import FORGOTTEN
from i2v.ledger.keys import RECENT_PREFIX, forgotten_label
from i2v.request import Request

KEPT = frozenset(
    {"outcome", "job", "task_id", "cost_usd", "possibly_charged_usd", "at_risk_usd", "saved_usd", "mode", "state"}
)
EMPTIED = frozenset({"prompt", "prompt_source", "video", "sha256", "reason"})
"""The columns of a run's JSON Lines that have no value any more."""
FORGOTTEN_FOLDER = "_forgotten"
Json = dict[str, Any]
Found = dict[str, FoundImage]
Eraser = Callable[[bytes, Selection, Found], bytes]
"""Takes a document; returns it without the images, and adds to `Found` those that it names, even as forgotten."""


def _find(item: Json, selection: Selection, found: Found) -> FoundImage | None:
    image = selection.find(item.get("image"))
    if image:
        found[image.name] = image
        if isinstance(job := item.get("job"), str):
            image.jobs.add(job)
            with suppress(ValidationError):
                image.requests[job] = Request.model_validate({name: item.get(name) for name in Request.model_fields})
    return image


def _erased(item: Json, image: FoundImage) -> Json:
    """Return what stays of a line: `KEPT`, and numbers. Fields of tables are empty; all others are gone."""
    kept = {
        name: value if name in KEPT or isinstance(value, int | float | None) else None
        for name, value in item.items()
        if name in KEPT | EMPTIED or isinstance(value, int | float | None)
    }
    return kept | {"image": forgotten_label(image.name)} | ({"extra": {}} if "extra" in item else {})


def _without_labels(text: Any, found: Found) -> Any:
    """Take the images' addresses and the folders of their videos out of a message about others, or about the run."""
    for image in found.values() if isinstance(text, str) else ():
        text = text.replace(image.label, FORGOTTEN).replace(f"/{image.name}/", f"/{FORGOTTEN}/")
    return text


def erase_from_lines(body: bytes, selection: Selection, found: Found) -> bytes:
    """Erase lines of a run's JSON Lines; each stays with what it cost."""
    rows = []
    for row in _rows(body):
        image = _find(row, selection, found)
        rows.append(_erased(row, image) if image else row)
    return _lines([{**row, "reason": _without_labels(row.get("reason"), found)} for row in rows])


def drop_lines(body: bytes, selection: Selection, found: Found) -> bytes:
    """Drop rows of a batch file that i2v wrote beside the ledger, and of a batch's images that are in no shard."""
    rows = [row for row in _rows(body) if not _find(row, selection, found)]
    return _lines([row | {"reason": _without_labels(row["reason"], found)} if "reason" in row else row for row in rows])


def _rows(body: bytes) -> Iterator[Json]:
    return (json.loads(line) for line in body.splitlines() if line.strip())


def _lines(rows: list[Json]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def erase_from_run(body: bytes, selection: Selection, found: Found) -> bytes:
    """Erase items of a run's report, and folders that only erased images were in."""
    run: Json = json.loads(body)
    report = _erase_report(run.get("report") or {}, selection, found)
    if not found:
        return body
    folders = {_folder(item, selection) for item in report["items"]}
    for saving in run.get("saved") or ():
        saving["folder"] = saving["folder"] if saving["folder"] in folders else FORGOTTEN_FOLDER
    if stopped := run.get("stopped"):
        stopped["message"] = _without_labels(stopped.get("message"), found)
    return json.dumps({**run, "report": report}, indent=1).encode()


def erase_from_report(body: bytes, selection: Selection, found: Found) -> bytes:
    """Erase items of a batch's merged report."""
    return json.dumps(_erase_report(json.loads(body), selection, found)).encode()


def _erase_report(report: Json, selection: Selection, found: Found) -> Json:
    items = []
    for item in report.get("items") or ():
        image = _find(item, selection, found)
        items.append(_erased(item, image) if image else item)
    items = [{**item, "reason": _without_labels(item.get("reason"), found)} for item in items]
    stopped = {"stopped": _without_labels(report["stopped"], found)} if "stopped" in report else {}
    return report | {"items": items} | stopped


def _folder(item: Json, selection: Selection) -> str:
    return selection.name_of(item.get("image")).rpartition("/")[0]


def drop_from_page(body: bytes, selection: Selection, found: Found) -> bytes:
    """Drop entries of a page of the gallery; `forgotten` keeps their digests, so that a second try finds the page."""
    page: Json = json.loads(body)
    items = [item for item in page.get("items") or () if not _find(item, selection, found)]
    known = set(page.get("forgotten") or ())
    for label in known:
        if image := selection.find(label):
            found[image.name] = image
    kept = [{**item, "reason": _without_labels(item.get("reason"), found)} for item in items]
    return json.dumps(page | {"items": kept, "forgotten": sorted(known | set(map(forgotten_label, found)))}).encode()


def erase_from_manifest(body: bytes, selection: Selection, found: Found) -> bytes:
    """Erase where a copied video was copied from."""
    manifest: Json = json.loads(body)
    if (source := manifest.get("copied_from")) and (image := _find_by_output(source, selection)):
        found[image.name] = image
        del manifest["copied_from"]
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _find_by_output(uri: str, selection: Selection) -> FoundImage | None:
    name = uri.removeprefix(str(selection.settings.videos)).rpartition("/")[0]
    return selection.images.get(name)


class Kind(NamedTuple):
    """Documents below the jobs prefix: by prefix and ending."""

    prefix: str
    ending: str
    eraser: Eraser


DOCUMENTS = (
    Kind("runs/", ".json", erase_from_run),
    Kind("runs/", ".jsonl", erase_from_lines),
    Kind(RECENT_PREFIX, ".json", drop_from_page),
    Kind("inputs/", ".jsonl", drop_lines),
    Kind("batches/", ".jsonl", drop_lines),
    Kind("batches/", "report.json", erase_from_report),
)
