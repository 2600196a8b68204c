"""How an image is taken out of the documents that name several, and what stays of it."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from i2v.erasure.documents import (
    DOCUMENTS,
    Eraser,
    Kind,
    drop_lines,
    erase_from_manifest,
    erase_from_report,
    erase_from_run,
)
from i2v.erasure.selection import FoundImage, Selection
from i2v.ledger.keys import forgotten_label
from i2v.reports.recent import RecentPage
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.request import Request
from tests.support.settings import SealedSettings

JANE, TOM = "s3://b-1/images/jane/1.jpg", "s3://b-1/images/tom.jpg"


@pytest.fixture
def selection() -> Selection:
    """Return a selection of Jane's image."""
    chosen = Selection(SealedSettings(I2V_BUCKET="b-1"))
    chosen.add([JANE])
    chosen.close()
    return chosen


def line_of(image: str) -> ItemReport:
    """Return an image's line."""
    return ItemReport(
        image=image,
        outcome=Outcome.STORED,
        job="a" * 64,
        video=image.replace("images", "videos"),
        cost_usd=Decimal("0.192"),
        reason=f"beside {JANE}",
        request=Request(prompt="jane waves"),
        prompt_source="column",
        again=f"run {image} --prompt 'jane waves'",
        extra={"sku": "jane-1"},
    )


REPORT = Report(items=(line_of(JANE), line_of(TOM)), stopped=f"three failed, last {JANE}")


def erased(eraser: Eraser, body: bytes, selection: Selection) -> str:
    """Return the document without the images, which must name them."""
    found: dict[str, FoundImage] = {}
    text = eraser(body, selection, found).decode()
    assert [*found] == ["jane/1.jpg"]
    return text


def test_a_report_keeps_outcome_job_and_cost(selection: Selection) -> None:
    """Nothing of the image is left, the line can still be read, and the sums are the same."""
    text = erased(erase_from_report, json.dumps(REPORT.for_record()).encode(), selection)
    jane, tom = json.loads(text)["items"]
    line = ItemReport.from_record(jane)
    assert JANE not in text
    assert (line.image, line.outcome, line.job) == (forgotten_label("jane/1.jpg"), Outcome.STORED, "a" * 64)
    assert (line.cost_usd, line.extra, line.request, line.again) == (Decimal("0.192"), {}, None, "")
    assert (tom["image"], tom["prompt"]) == (TOM, "jane waves")


def test_a_run_keeps_only_folders_of_other_images(selection: Selection) -> None:
    """A folder may be a person's name; what the ledger saved in it stays."""
    saved = [{"mode": "m", "folder": folder, "outcome": "cached", "images": 1, "usd": "1"} for folder in ("jane", "")]
    run = {"run_id": "r", "report": REPORT.for_record(), "saved": saved, "stopped": {"code": "c", "message": JANE}}
    text = erased(erase_from_run, json.dumps(run).encode(), selection)
    assert "jane/" not in text
    assert [one["folder"] for one in json.loads(text)["saved"]] == ["_forgotten", ""]


@pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda kind: f"{kind.prefix}{kind.ending}")
def test_every_document_is_found_again(kind: Kind, selection: Selection) -> None:
    """A second try finds the same image in what the first one wrote and changes nothing; junk is not a document."""
    prefix, ending, eraser = kind
    bodies = {
        "runs/.json": json.dumps({"report": REPORT.for_record()}).encode(),
        "runs/.jsonl": REPORT.rows_jsonl,
        "recent/.json": json.dumps({"run_id": "r", "items": [{"image": JANE}, {"image": TOM}]}).encode(),
        "batches/report.json": json.dumps(REPORT.for_record()).encode(),
    }
    rows = b"".join(json.dumps({"image": image, "prompt": "p"}).encode() + b"\n" for image in (JANE, TOM))
    body = bodies.get(f"{prefix}{ending}", rows)
    once = erased(eraser, body, selection)
    assert JANE not in once
    assert TOM in once
    if eraser is not drop_lines:  # a row that is gone leaves no trace
        assert erased(eraser, once.encode(), selection) == once
    with pytest.raises(ValueError, match="Expecting"):
        eraser(b"{", selection, {})


def test_another_image_s_document_is_unchanged(selection: Selection) -> None:
    """Its lines and entries stay, byte by byte where it matters."""
    found: dict[str, FoundImage] = {}
    body = Report(items=(line_of(TOM).model_copy(update={"reason": None}),)).rows_jsonl
    for kind in DOCUMENTS:
        if kind.ending == ".jsonl":
            assert kind.eraser(body, selection, found) == body
    assert found == {}


def test_an_erased_page_is_a_page(selection: Selection) -> None:
    """The gallery reads it; the digest of the image is all that is left of it."""
    body = json.dumps({"run_id": "r", "started_at": "2026-11-22T00:00Z", "items": [{"image": JANE}]}).encode()
    (kind,) = (kind for kind in DOCUMENTS if kind.prefix == "recent/")
    text = erased(kind.eraser, body, selection)
    assert RecentPage.model_validate_json(text).items == ()
    assert forgotten_label("jane/1.jpg") in text


def test_a_copied_manifest_names_its_source_no_more(selection: Selection) -> None:
    """Everything else stays."""
    body = json.dumps({"copied_from": "s3://b-1/videos/jane/1.jpg/x.mp4", "job": "j"}).encode()
    assert json.loads(erased(erase_from_manifest, body, selection)) == {"job": "j"}


def test_an_error_of_an_equal_image_names_no_folder_of_the_erased_one(selection: Selection) -> None:
    """Its video is copied from there, so that a failure of S3 tells the address."""
    failure = "The S3 request for s3://b-1/videos/jane/1.jpg/0a-0b.mp4 failed"
    lines = [line_of(JANE), line_of(TOM).model_copy(update={"reason": failure})]
    report = json.dumps({"items": [line.for_record() for line in lines]}).encode()
    text = erase_from_report(report, selection, {}).decode()
    assert "jane/1.jpg" not in text
    assert "The S3 request for s3://b-1/videos/forgotten/0a-0b.mp4 failed" in text
