"""Count the requests that a `Storage` sends, by operation."""

from __future__ import annotations

from collections import Counter

from i2v.s3.storage import Storage


def counted(storage: Storage) -> Counter[str]:
    """Return a counter of all requests from now on."""
    requests: Counter[str] = Counter()
    storage.client.meta.events.register("before-send.s3", lambda event_name, **_: requests.update([event_name[15:]]))
    return requests
