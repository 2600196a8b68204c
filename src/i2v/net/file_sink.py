"""A download on disk: `FileSink`."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self

from i2v.errors import FetchError


class FileSink:
    """Write and hash a file; delete it on an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.hash = hashlib.sha256()
        self.size = 0

    def open(self) -> Callable[[bytes], None]:
        """Create the file and return the function that writes a piece."""
        file = self._file = self._path.open("wb")

        def write(piece: bytes) -> None:
            file.write(piece)
            self.hash.update(piece)
            self.size += len(piece)

        return write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._file is None:
            return
        try:
            self._file.close()  # flushes
        except OSError as failure:
            self._path.unlink(missing_ok=True)
            message = f"{self._path} could not be written: {failure.strerror}"
            raise FetchError(message, "Free disk space, then try again") from None
        if error is not None:
            self._path.unlink(missing_ok=True)
