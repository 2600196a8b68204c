"""Mutants of published names and of erasure: promises 1, 4 and 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i2v.pipeline import generate
from i2v.pipeline.named_copies import publish_copy
from i2v.pipeline.payment import check_and_pay
from i2v.recovery import leftover_markers, reconcile
from tests.simulator.mutants.replacing import Mutant, do_nothing, replace


def names_not_compared() -> None:
    """7: two images of a run that would share a published name are both paid."""

    async def unchanged(_run: Any, prepared: Sequence[Any]) -> Sequence[Any]:
        return prepared

    replace(generate, "without_conflicts", unchanged)


def missing_copy_not_healed() -> None:
    """7: reconcile does not publish what a dead run left out."""
    replace(reconcile, "publish_copy", do_nothing)
    replace(leftover_markers, "publish_copy", do_nothing)


def older_take_replaces_newer() -> None:
    """7: the video that is published last has the name, also if it is older."""
    replace(publish_copy._Manifest, "age", property(lambda _: ("", "")))


def forgotten_image_paid() -> None:
    """4: a run does not look whether an image was erased."""
    replace(check_and_pay, "_remember", do_nothing)


MUTANTS: tuple[Mutant, ...] = (
    names_not_compared,
    missing_copy_not_healed,
    older_take_replaces_newer,
    forgotten_image_paid,
)
