"""What a `Storage` asks of S3, counted by operation, also past boto3's own machinery."""

from __future__ import annotations

from collections import Counter
from typing import Any

from i2v.s3.direct import LIST, OPERATIONS
from i2v.s3.storage import Storage


def counted(storage: Storage) -> Counter[str]:
    """The requests from now on."""
    requests: Counter[str] = Counter()
    storage.client.meta.events.register("before-send.s3", lambda event_name, **_: requests.update([event_name[15:]]))
    assert storage.direct
    direct: Any = storage.direct
    ask = direct.ask

    def ask_counted(method: str, *args: Any, **kwargs: Any) -> Any:
        requests[LIST if kwargs.get("query") else OPERATIONS[method]] += 1
        return ask(method, *args, **kwargs)

    direct.ask = ask_counted
    return requests
