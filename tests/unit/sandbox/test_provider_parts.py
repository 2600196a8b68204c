"""Parts of the emulator that need no server: video sizes, result URLs, faults, billing."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest
from PIL import Image, ImageOps

from sandbox.provider.contract import ApiError
from sandbox.provider.emulator import Account
from sandbox.provider.faults import KINDS, Fault, FaultTarget, ScriptedFaults
from sandbox.provider.tasks import ResultUrls
from sandbox.provider.video_maker import VideoSpec
from sandbox.synthetic_images import make_jpeg, make_png


@pytest.mark.parametrize(
    ("image", "short_side", "frame"),
    [((640, 480), 768, (1024, 768)), ((301, 750), 768, (768, 1914)), ((1000, 999), 1080, (1082, 1080))],
)
def test_a_frame_keeps_the_aspect_ratio_and_is_even(
    image: tuple[int, int], short_side: int, frame: tuple[int, int]
) -> None:
    """A video has the requested short side, the image's aspect ratio, and even sides as h264 requires."""
    assert VideoSpec(short_side, 6).size(*image) == frame


def test_images_are_distinct_and_repeatable() -> None:
    """Each seed gives another image, the same seed the same bytes, and orientation 6 swaps the sides."""
    assert make_jpeg(seed=1) == make_jpeg(seed=1) != make_jpeg(seed=2)
    assert make_png(seed=1) != make_png(seed=2)
    with Image.open(io.BytesIO(make_jpeg(640, 400, exif_orientation=6))) as image:
        assert image.size == (640, 400)
        assert ImageOps.exif_transpose(image).size == (400, 640)


def test_a_result_url_is_valid_only_unchanged() -> None:
    """A result URL is valid for one task until it expires; another task, time or signature is not."""
    urls = ResultUrls("http://h")
    query = urls.create("task_1", 60).partition("?")[2]
    expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
    assert urls.is_valid("task_1", expires, signature)
    assert not urls.is_valid("task_2", expires, signature)
    assert not urls.is_valid("task_1", str(int(expires) + 1), signature)
    assert not urls.is_valid("task_1", "²", signature)
    assert not urls.is_valid("task_1", expires, "é")
    expired = urls.create("task_1", -1).partition("?")[2].split("&")
    assert not urls.is_valid("task_1", expired[0].partition("=")[2], expired[1].partition("=")[2])


def test_faults_apply_in_order_and_as_often_as_scripted() -> None:
    """The first matching fault applies; when it is used up, the next one does."""
    faults = ScriptedFaults()
    faults.add(Fault(on="submit", kind="drop", prompt="cat"))
    always = faults.add(Fault(on="submit", kind="reset", times=None, skip=1))
    targets = [
        FaultTarget("submit", prompt="a cat"),
        FaultTarget("submit", prompt="a cat"),
        FaultTarget("status"),
        FaultTarget("submit"),
    ]
    applied = [faults.next_for(target) for target in targets]
    assert [fault.kind if fault else None for fault in applied] == ["drop", None, None, "reset"]
    assert always.hits == 1


def test_every_kind_of_fault_is_valid() -> None:
    """Each kind in the table is a valid fault of its endpoint."""
    faults = [Fault.model_validate({"on": on, "kind": kind}) for on, kinds in KINDS.items() for kind in kinds]
    assert len(faults) > 50


def test_an_account_can_be_emptied_but_not_overdrawn() -> None:
    """The balance can reach exactly zero and not less."""
    account = Account(Decimal("0.384"))
    account.charge(Decimal("0.192"))
    account.charge(Decimal("0.192"))
    assert account.balance_usd == 0
    with pytest.raises(ApiError, match="402"):
        account.charge(Decimal("0.001"))
    assert account.billed_usd == Decimal("0.384")
