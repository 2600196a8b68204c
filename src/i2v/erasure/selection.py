"""The images that a person wants erased, and what belongs to each: `Selection`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from i2v.errors import UsageError
from i2v.ledger import keys
from i2v.ledger.job import JobRecord
from i2v.media.images import ImageRef
from i2v.request import Request
from i2v.s3.versions import NotDeleted
from i2v.s3_uri import S3Uri
from i2v.settings import Settings


@dataclass(slots=True)
class FoundImage:
    """One image and what belongs to it alone."""

    label: str
    name: str
    versions: set[str] = field(default_factory=set)
    """As its markers name them: `keys.version_of`."""
    jobs: set[str] = field(default_factory=set)
    """Keys of records that name it, or whose earlier versions may."""
    requests: dict[str, Request] = field(default_factory=dict)
    """What reports say that it was requested with, by job."""
    inputs: set[S3Uri] = field(default_factory=set)
    """Copies of its bytes beside the ledger."""
    outputs: list[S3Uri] = field(default_factory=list)
    """Videos, posters, manifests and verdicts."""
    published: list[S3Uri] = field(default_factory=list)
    """Manifests of copies under names of `I2V_PUBLISH_AS`."""
    documents: int = 0
    """How many documents name it beside others."""
    shared_with: set[str] = field(default_factory=set)
    """Other images with the same content, which keep their video."""

    @property
    def uri(self) -> S3Uri | None:
        """The object, if it is one in S3."""
        return ImageRef.parse(self.label).uri

    @property
    def is_known(self) -> bool:
        """Whether anything was found."""
        return bool(self.versions or self.jobs or self.inputs or self.outputs or self.published or self.documents)


@dataclass(frozen=True, slots=True)
class Sharer:
    """Another image's copy of a video, by its manifest."""

    manifest: S3Uri
    content: dict[str, Any]


@dataclass(slots=True)
class Selection:
    """The images by name. `find` adds those under `prefix` until `close`."""

    settings: Settings
    prefix: S3Uri | None = None
    images: dict[str, FoundImage] = field(default_factory=dict)
    records: dict[str, JobRecord] = field(default_factory=dict)
    """Job records that name one of the images, even as forgotten."""
    sharers: dict[str, list[Sharer]] = field(default_factory=dict)
    """By job."""
    inputs_in_use: set[S3Uri] = field(default_factory=set)
    """Copies that a paid and open job of any image may still need."""
    documents: list[S3Uri] = field(default_factory=list)
    manifests: list[S3Uri] = field(default_factory=list)
    """Manifests of other images, whose videos were copied from one of these."""
    unreadable: list[NotDeleted] = field(default_factory=list)
    tables: S3Uri | None = None
    """Where the tables of `i2v export` beside the ledger are, if there are any."""
    live_runs: dict[S3Uri, datetime] = field(default_factory=dict)
    """Records of runs that still work, and when each was started."""
    _digests: dict[str, str] = field(default_factory=dict)
    _is_closed: bool = False

    def add(self, labels: Iterable[str]) -> None:
        """Add images. Raise `UsageError` if a label does not belong to an image."""
        for label in labels:
            ref = ImageRef.parse(label)
            self._add(ref.label, keys.image_name(ref, self.settings))

    def _add(self, label: str, name: str) -> FoundImage:
        found = self.images.setdefault(name, FoundImage(label, name))
        self._digests[keys.forgotten_label(name)] = name
        return found

    def close(self, without: Iterable[str] = ()) -> None:
        """Accept no more images, and drop some by name."""
        self._is_closed = True
        for name in without:
            self.images.pop(name, None)

    def open_jobs(self, image: FoundImage) -> list[JobRecord]:
        """Return the image's jobs that were open when they were read: it cannot be erased before they end."""
        return [self.records[key] for key in sorted(image.jobs & self.records.keys()) if self.records[key].is_open]

    def find(self, label: Any) -> FoundImage | None:
        """Return the image with this label, which may be that of a forgotten image."""
        if not isinstance(label, str):
            return None
        if label.startswith(keys.FORGOTTEN_PREFIX):
            return self.images.get(self._digests.get(label, ""))
        ref = _parse(label)
        if ref is None:
            return None
        name = keys.image_name(ref, self.settings)
        is_under = self.prefix is not None and ref.uri is not None and self.prefix.holds(ref.uri)
        if is_under and not self._is_closed:
            return self._add(ref.label, name)
        return self.images.get(name)

    def name_of(self, label: Any) -> str:
        """Return the name of the image with this label, empty if there is none."""
        ref = _parse(label) if isinstance(label, str) else None
        return keys.image_name(ref, self.settings) if ref else ""

    def find_folder(self, name: str) -> FoundImage | None:
        """Return the image whose outputs are in this folder."""
        if name in self.images or self.prefix is None or name.startswith(("_url/", "_long/")):
            return self.images.get(name)
        other, _, key = name.removeprefix("_s3/").partition("/")
        uri = S3Uri(other, key) if name.startswith("_s3/") else self.settings.images / name
        return self.find(str(uri))


def _parse(label: str) -> ImageRef | None:
    try:
        return ImageRef.parse(label)
    except UsageError:
        return None
