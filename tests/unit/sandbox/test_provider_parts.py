"""The emulator's parts that need no server: sizes of videos, links, faults, bills."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest
from PIL import Image, ImageOps

from sandbox.provider.billing import Account, RateLimit
from sandbox.provider.contract import ApiError
from sandbox.provider.faults import KINDS, Fault, FaultTarget, ScriptedFaults
from sandbox.provider.result_urls import ResultUrls
from sandbox.provider.video_maker import VideoSpec
from sandbox.synthetic_images import make_jpeg, make_png


@pytest.mark.parametrize(
    ("image", "short_side", "frame"),
    [((640, 480), 768, (1024, 768)), ((301, 750), 768, (768, 1914)), ((1000, 999), 1080, (1082, 1080))],
)
def test_frame_keeps_the_aspect_and_is_even(image: tuple[int, int], short_side: int, frame: tuple[int, int]) -> None:
    """A video has the ordered short side and the image's aspect, on even sides as h264 wants."""
    assert VideoSpec(short_side, 6).size(*image) == frame


def test_pictures_are_distinct_and_as_ordered() -> None:
    """Each seed gives another picture, the same seed the same bytes, and orientation 6 exchanges the sides."""
    assert make_jpeg(seed=1) == make_jpeg(seed=1) != make_jpeg(seed=2)
    assert make_png(seed=1) != make_png(seed=2)
    with Image.open(io.BytesIO(make_jpeg(640, 400, exif_orientation=6))) as picture:
        assert picture.size == (640, 400)
        assert ImageOps.exif_transpose(picture).size == (400, 640)


def test_link_is_alive_only_as_made() -> None:
    """A link serves one task until its time; any other task, time or signature is refused."""
    links = ResultUrls("http://h")
    query = links.make("task_1", 60).partition("?")[2]
    expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
    assert links.is_alive("task_1", expires, signature)
    assert not links.is_alive("task_2", expires, signature)
    assert not links.is_alive("task_1", str(int(expires) + 1), signature)
    assert not links.is_alive("task_1", "²", signature)
    assert not links.is_alive("task_1", expires, "é")
    over = links.make("task_1", -1).partition("?")[2].split("&")
    assert not links.is_alive("task_1", over[0].partition("=")[2], over[1].partition("=")[2])


def test_fault_strikes_in_order_and_only_as_often_as_ordered() -> None:
    """The first fault whose conditions hold strikes; when it is used up the next has its turn."""
    faults = ScriptedFaults()
    faults.add(Fault(on="submit", kind="drop", prompt="cat"))
    always = faults.add(Fault(on="submit", kind="reset", times=None, skip=1))
    visits = [
        FaultTarget("submit", prompt="a cat"),
        FaultTarget("submit", prompt="a cat"),
        FaultTarget("status"),
        FaultTarget("submit"),
    ]
    struck = [faults.strike(visit) for visit in visits]
    assert [fault.kind if fault else None for fault in struck] == ["drop", None, None, "reset"]
    assert always.hits == 1


def test_every_kind_of_fault_can_be_made() -> None:
    """Each kind that the table names is a valid fault of its endpoint."""
    made = [Fault.model_validate({"on": on, "kind": kind}) for on, kinds in KINDS.items() for kind in kinds]
    assert len(made) > 60


def test_bank_charges_to_the_last_tenth_of_a_cent() -> None:
    """The account may be emptied exactly, and not overdrawn."""
    bank = Account(Decimal("0.384"))
    bank.charge(Decimal("0.192"))
    bank.charge(Decimal("0.192"))
    assert bank.balance_usd == 0
    with pytest.raises(ApiError, match="402"):
        bank.charge(Decimal("0.001"))
    assert bank.billed_usd == Decimal("0.384")


def test_pace_admits_so_many_a_second() -> None:
    """One more than the limit within a second is refused with the wait it was told."""
    pace = RateLimit()
    for _ in range(3):
        pace.admit(3, 2.5)
    with pytest.raises(ApiError) as refusal:
        pace.admit(3, 2.5)
    assert (refusal.value.code, refusal.value.retry_after) == (429, 2.5)
    pace.admit(None, None)
