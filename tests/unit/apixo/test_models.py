"""The models accept the provider's published examples, which are in `fixtures/apixo` (docs/provider.md)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from i2v.apixo.answers import Answer
from i2v.apixo.errors import accepted_task
from i2v.apixo.models import SubmitBody, TaskState, submit_body, task_status
from i2v.errors import BadAnswer
from i2v.request import Mode, Request
from tests.support.paths import FIXTURES

EXAMPLES = FIXTURES / "apixo"
PROMPT = "animate this character portrait with a gentle cinematic camera move"
IMAGE = "https://example.com/input.jpg"
TASK = "task_12345678"


def _example(name: str) -> Any:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def _answer(data: object, **envelope: object) -> Answer:
    body = {"code": 200, "message": "success", "data": data, **envelope}
    return Answer("GET /statusTask/hailuo-2-3-fast", 200, json.dumps(body).encode())


def _success(**other: object) -> dict[str, object]:
    return {**_example("status_success")["data"], **other}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("submit_standard", submit_body(Request(prompt=PROMPT), IMAGE)),
        ("submit_pro", submit_body(Request(mode=Mode.PRO, prompt=PROMPT), IMAGE)),
        (
            "submit_callback",
            submit_body(Request(duration=10, prompt=PROMPT), IMAGE, callback_url="https://your-server.com/callback"),
        ),
    ],
)
def test_a_submit_is_the_published_example(name: str, body: SubmitBody) -> None:
    """The JSON of a submit equals the published example."""
    assert body.wire() == _example(name)
    assert SubmitBody.model_validate(_example(name)) == body


def test_the_route_is_sent_only_when_configured() -> None:
    """`provider` is in the body only if it is set."""
    assert submit_body(Request(prompt=PROMPT), IMAGE, route="value").wire()["provider"] == "value"
    assert "provider" not in submit_body(Request(prompt=PROMPT), IMAGE, route="").wire()


def test_a_duration_may_be_a_string() -> None:
    """`"6"` and `"10"` are accepted, as the provider accepts them."""
    wire = _example("submit_standard")
    wire["input"]["duration"] = "10"
    assert SubmitBody.model_validate(wire).input.duration == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": {"mode": "text-to-video", "prompt": "x", "image_urls": [IMAGE], "duration": 6}},
        {"input": {"mode": "standard-image-to-video", "prompt": "x", "image_urls": [IMAGE]}},
        {"input": {"mode": "standard-image-to-video", "prompt": "x", "image_urls": [IMAGE], "duration": 7}},
        {"input": {"mode": "standard-image-to-video", "prompt": "x", "image_urls": [], "duration": 6}},
        {"input": {"mode": "standard-image-to-video", "prompt": "x", "image_urls": [IMAGE, IMAGE], "duration": 6}},
        {"input": {"mode": "standard-image-to-video", "prompt": "", "image_urls": [IMAGE], "duration": 6}},
        {"request_type": "callback", "input": {"mode": "pro-image-to-video", "prompt": "x", "image_urls": [IMAGE]}},
        {"callback_url": IMAGE, "input": {"mode": "pro-image-to-video", "prompt": "x", "image_urls": [IMAGE]}},
    ],
)
def test_an_invalid_submit_cannot_be_built(wrong: dict[str, Any]) -> None:
    """A wrong mode, duration, number of images, prompt or callback URL is refused."""
    with pytest.raises(ValidationError):
        SubmitBody.model_validate(wrong)


def test_no_repr_or_error_shows_a_signed_url() -> None:
    """The URLs of image, callback and result are in no repr and no validation error."""
    body = submit_body(Request(prompt=PROMPT), f"{IMAGE}?sig=1", callback_url="https://d.example/c?hmac=2")
    assert "sig" not in repr(body)
    assert "hmac" not in repr(body)
    status = task_status(_answer(_success(resultJson='{"resultUrls": ["https://f.example/v.mp4?sig=3"]}')), TASK)
    assert "sig" not in repr(status)
    with pytest.raises(ValidationError) as caught:
        SubmitBody.model_validate({"input": {"image_urls": [f"{IMAGE}?sig=1"], "mode": 5}})
    assert "sig" not in str(caught.value)


def test_the_answer_to_a_submit_holds_the_task_id() -> None:
    """The published answer is an acceptance with its task id."""
    answer = Answer("POST", 200, json.dumps(_example("submit_answer")).encode())
    assert accepted_task(answer) == TASK


def test_a_published_processing_status_is_running() -> None:
    """`processing` has a creation time, but neither result nor end."""
    status = task_status(_answer(_example("status_processing")["data"]), TASK)
    assert (status.state, status.raw_state) == (TaskState.RUNNING, "processing")
    assert status.created_at == datetime(2024, 1, 1, tzinfo=UTC)
    assert (status.result_urls, status.completed_at, status.cost_ms) == ((), None, None)


def test_a_published_success_has_its_video() -> None:
    """`success` has the URL in `resultJson`, times in UTC and the processing time."""
    status = task_status(_answer(_example("status_success")["data"]), TASK)
    assert status.state is TaskState.SUCCESS
    assert status.result_urls == ("https://file.apixo.ai/video.mp4",)
    assert status.completed_at == datetime(2024, 1, 1, 0, 2, tzinfo=UTC)
    assert status.cost_ms == 120_000


def test_a_published_failure_has_code_and_message() -> None:
    """`failed` has the fail code and message."""
    status = task_status(_answer(_example("status_failed")["data"]), TASK)
    assert (status.state, status.fail_code) == (TaskState.FAILED, "SensitiveContent")
    assert status.fail_message == "Content violates usage policy"


@pytest.mark.parametrize("word", ["queued", "succeeded?", "running", "Completed"])
def test_an_unknown_state_counts_as_running(word: str) -> None:
    """Any state but `success` and `failed` is running, and the original is kept."""
    status = task_status(_answer({"taskId": TASK, "state": word}), TASK)
    assert (status.state, status.raw_state, status.unknown_state) == (TaskState.RUNNING, word, word)


@pytest.mark.parametrize("word", ["queued", "succeeded", "Completed"])
def test_an_unknown_state_with_result_urls_counts_as_success(word: str) -> None:
    """A paid video is fetched, whatever the provider's word for its success."""
    status = task_status(_answer(_success(state=word)), TASK)
    assert (status.state, status.unknown_state) == (TaskState.SUCCESS, word)


@pytest.mark.parametrize("word", ["processing", "Pending ", "processing_r2"])
def test_a_known_running_state_is_running_also_with_result_urls(word: str) -> None:
    """A state that says that the video is being made is believed."""
    status = task_status(_answer(_success(state=word)), TASK)
    assert (status.state, status.unknown_state) == (TaskState.RUNNING, None)


@pytest.mark.parametrize("word", ["success", "SUCCESS", "failed"])
def test_a_known_end_is_no_unknown_state(word: str) -> None:
    """The published states are known, in any case."""
    assert task_status(_answer(_success(state=word)), TASK).unknown_state is None


def test_a_result_may_be_an_object() -> None:
    """`resultJson` may be an object instead of a string that contains one."""
    status = task_status(_answer(_success(resultJson={"resultUrls": ["https://cdn.apixo.ai/a.mp4"]})), TASK)
    assert status.result_urls == ("https://cdn.apixo.ai/a.mp4",)


def test_unknown_fields_are_ignored() -> None:
    """A new field in a status does not break it."""
    assert task_status(_answer(_success(model="x", credits={"a": 1})), TASK).state is TaskState.SUCCESS


@pytest.mark.parametrize("value", [None, "soon", True, -1, 10**30, {}, ""])
def test_a_paid_video_is_not_lost_to_a_bad_time(value: object) -> None:
    """Absent or invalid times are None, and the video is still delivered."""
    status = task_status(_answer(_success(createTime=value, completeTime=value, costTime=None)), TASK)
    assert status.result_urls
    assert (status.created_at, status.completed_at, status.cost_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"state": "processing"}, "taskId"),
        ({"taskId": TASK}, "state"),
        ({"taskId": 5.5, "state": "processing"}, "taskId"),
        ({"taskId": TASK, "state": 5}, "state"),
        ({"taskId": TASK, "state": ""}, "state"),
        ({"taskId": "task_other", "state": "processing"}, "for another task"),
        ({"taskId": TASK, "state": "success"}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": ""}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": "{"}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": "[" * 100_000}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": '{"resultUrls": []}'}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": '{"resultUrls": [5, "", "x"]}'}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": '{"resultUrls": "https://a.b/c"}'}, "without a usable URL"),
        ({"taskId": TASK, "state": "success", "resultJson": 7}, "without a usable URL"),
        ([], "without an object"),
        (None, "without an object"),
        ("processing", "without an object"),
    ],
)
def test_a_status_that_breaks_the_contract_is_a_bad_answer(data: object, fault: str) -> None:
    """BadAnswer names the method, the path and the broken rule."""
    with pytest.raises(BadAnswer, match=fault) as caught:
        task_status(_answer(data), TASK)
    assert "GET /statusTask/hailuo-2-3-fast" in str(caught.value)
    assert caught.value.retryable
