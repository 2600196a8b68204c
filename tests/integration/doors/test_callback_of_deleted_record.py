"""The door keeps the tasks of a job whose record was deleted."""

from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from doors.http.callbacks import Callbacks
from i2v.apixo.callbacks import callback_url
from i2v.ledger import keys
from i2v.ledger.task_pages import TaskPage
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.settings import SealedSettings

KEY = "a" * 64


async def test_every_task_of_a_deleted_record_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Each signed callback for a job without a record leaves its task's page, and the log names the task."""
    bucket = MemoryBucket()
    settings = SealedSettings(
        I2V_BUCKET="b-1", I2V_CALLBACK_BASE_URL="https://door.example", I2V_CALLBACK_SECRET="a-secret-of-the-tests"
    )
    callbacks = Callbacks(settings, MemoryStorage(bucket), cast("Any", None), CollectorRegistry())
    transport = httpx.ASGITransport(Starlette(routes=[callbacks.route]))
    async with httpx.AsyncClient(transport=transport, base_url="https://door.example") as client:
        for attempt, task in ((1, "T1"), (2, "T2")):
            answer = {"code": 200, "message": "success", "data": {"taskId": task, "state": "success"}}
            response = await client.post(urlsplit(callback_url(settings, KEY, attempt)).path, json=answer)
            assert response.status_code == 404
            page = TaskPage.model_validate_json(bucket.objects[keys.task_uri(settings, task)].body)
            assert page == TaskPage(job=KEY, attempt=attempt, task_id=task)
            assert f"task {task} of job {KEY}" in caplog.text
