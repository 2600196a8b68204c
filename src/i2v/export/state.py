"""What the tables hold: `ExportState`, the document `_export.json` beside them."""

from datetime import date, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import Conflict, UsageError
from i2v.export.places import STATE_NAME, Place
from i2v.ledger.documents import wait_briefly
from i2v.settings import Settings

SLACK = timedelta(minutes=5)
"""S3's times are whole seconds, and its servers' clocks may differ a little."""


class ExportState(BaseModel):
    """The changes that the tables hold."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    jobs: str
    """The URI of the ledger."""
    first_day: date
    """The tables have all rows from this UTC day on, and none of earlier days."""
    read_until: datetime
    """All records written before this time are in the tables, by S3's clock."""
    unread: tuple[str, ...] = ()
    """Jobs whose records could not be read."""

    @property
    def changed_since(self) -> datetime:
        """Records written since then may differ from the tables."""
        return self.read_until - SLACK

    def both(self, other: "ExportState") -> "ExportState":
        """Return what holds after both exports: the later one may have skipped days that this one began with."""
        first, until = min(self.first_day, other.first_day), min(self.read_until, other.read_until)
        unread = tuple(sorted({*self.unread, *other.unread}))
        return self.model_copy(update={"first_day": first, "read_until": until, "unread": unread})


async def read_state(place: Place, settings: Settings, folder: Path) -> tuple[ExportState | None, str | None]:
    """Return the state and its version. Raise `UsageError` for another ledger's tables or a newer format."""
    path = folder / STATE_NAME
    version = await place.fetch(STATE_NAME, path)
    if version is None:
        return None, None
    try:
        state = ExportState.model_validate_json(path.read_bytes())
    except ValidationError:
        return None, version
    if state.format > 1:
        raise UsageError(f"The tables at {place} have format {state.format}, this i2v writes 1", "Upgrade i2v")
    if state.jobs != str(settings.jobs):
        raise UsageError(
            f"The tables at {place} are those of {state.jobs}, not of {settings.jobs}", "Use another --out"
        )
    return state, version


async def write_state(place: Place, settings: Settings, state: ExportState, version: str | None, folder: Path) -> None:
    """Replace this version of the state; if another export wrote it meanwhile, write what holds after both."""
    path = folder / f"new{STATE_NAME}"
    while True:
        path.write_text(state.model_dump_json(indent=1))
        try:
            await place.put(STATE_NAME, path, version)
        except Conflict:
            await wait_briefly()
            other, version = await read_state(place, settings, folder)
            state = state.both(other) if other else state
        else:
            return
