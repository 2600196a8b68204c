"""Log lines: without secrets and control characters; as JSON one object each, with image, job and task."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from i2v.cli.output.console import LogLines, SafeConsole
from i2v.errors import I2vError
from i2v.logs import HIDDEN, JsonLines, SafeRecords, log_context, to_json, use_json_lines

LOG = logging.getLogger("i2v.pipeline.poll")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Return the stream to which `LOG` writes JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOG.addHandler(handler)
    use_json_lines([LOG])
    yield stream
    LOG.removeHandler(handler)


def test_a_line_is_an_object_with_image_job_and_task(stream: io.StringIO) -> None:
    """A line has time, level, message and context, also if the message has line breaks."""
    LOG.warning("%s:\nrendered", "tom.jpg", extra=log_context("s3://b-1/images/tom.jpg", "a" * 64, "task_1"))
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "warning",
        "logger": "i2v.pipeline.poll",
        "message": "tom.jpg:\nrendered",
        "image": "s3://b-1/images/tom.jpg",
        "job": "a" * 64,
        "task_id": "task_1",
    }


def test_an_exception_has_its_traceback(stream: io.StringIO) -> None:
    """The object has the traceback, and no empty fields."""
    try:
        int("no")
    except ValueError:
        LOG.exception("it broke", extra=log_context("tom.jpg"))
    entry = json.loads(stream.getvalue())
    assert "ValueError: invalid literal" in entry["traceback"]
    assert "job" not in entry


def test_the_command_writes_json_lines() -> None:
    """An object is one line on a narrow console too, and markup in it is not interpreted."""
    stream = io.StringIO()
    record = logging.LogRecord("i2v", logging.WARNING, "", 0, "[red]%s[/]", ("x" * 300,), None)
    LogLines(Console(file=stream, width=40), verbose=False, as_json=True).emit(record)
    assert json.loads(stream.getvalue())["message"] == f"[red]{'x' * 300}[/]"
    assert JsonLines().format(record) == stream.getvalue().strip()


KEY = "sk-apixo/9f3+8c1d2e77=AbC"
PASSWORD = "hunter2-is-a-password"


@pytest.fixture
def safe(monkeypatch: pytest.MonkeyPatch) -> SafeRecords:
    """The factory, in an environment with known secrets."""
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    monkeypatch.setenv("I2V_CALLBACK_SECRET", "the-new-secret-of-16, the-old-secret-of-16")
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:{PASSWORD}@prefect:4200/api")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return SafeRecords(logging.LogRecord)


def _line(safe: SafeRecords, message: str, *args: object, name: str = "i2v.x", level: int = logging.INFO) -> str:
    return logging.Formatter().format(safe(name, level, "x.py", 1, message, args, None))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"no: Bearer {KEY}", "no: Bearer …"),
        ("signed with the-old-secret-of-16", "signed with …"),
        ("GET http://me:p@ss@s3:9000/b?list-type=2", "GET http://…@s3:9000/b?list-type=2"),
        (f"at {PASSWORD}", "at …"),
        ("https://s3/b/k?X-Amz-Date=1&X-Amz-Signature=ab12&x=1", "https://s3/b/k?…&…&x=1"),
        ("/b/k?AWSAccessKeyId=A&Signature=a%2Fb&Expires=9", "/b/k?AWSAccessKeyId=A&…&Expires=9"),
        ("https://h/a.jpg?access_token=abc", "https://h/a.jpg?access_…"),
        ("https://h/a.jpg?token=abc", "https://h/a.jpg?…"),
        ("{'Authorization': b'AWS4-HMAC-SHA256 Signature=ab', 'Date': 1}", "{'Authorization': b'…', 'Date': 1}"),
        (f"/apixo/{'a' * 64}/1/{'b' * 64}", f"/apixo/{'a' * 64}/1/…"),
        ("a design=1 ends by signal=15", "a design=1 ends by signal=15"),
    ],
)
def test_secrets_are_not_logged(safe: SafeRecords, text: str, shown: str) -> None:
    """Known secrets, passwords and signatures of URLs are cut, in the message and in its arguments."""
    assert _line(safe, "%s", text, name="elsewhere") == shown
    assert _line(safe, text.replace("%", "%%") + "%s", "") == shown


def test_http_libraries_hide_their_requests(safe: SafeRecords) -> None:
    """Below WARNING boto3 and the HTTP clients log headers and bodies, which are hidden; their warnings stay."""
    for name in ("botocore.auth", "urllib3.connectionpool", "httpcore.http11", "httpx"):
        assert _line(safe, "Signature:\n%s", "ab12", name=name, level=logging.DEBUG) == HIDDEN
        assert _line(safe, "pool is full", name=name, level=logging.WARNING) == "pool is full"
    assert _line(safe, "n=%d", 1, name="asyncio", level=logging.DEBUG) == "n=1"


def test_a_traceback_has_no_secrets(safe: SafeRecords) -> None:
    """Tracebacks are cleaned too, as text and as JSON."""
    try:
        raise ValueError(f"url: /b?X-Amz-Signature=ab12 {KEY} \x1b[2J")  # noqa: TRY301 - for its traceback
    except ValueError:
        record = safe("i2v", logging.ERROR, "x.py", 1, "it broke", (), sys.exc_info())
    for text in (logging.Formatter().format(record), JsonLines().format(record)):
        assert "ValueError: url: /b?… … " in text
        assert "\x1b" not in text


HOSTILE = "images/\x1b[2J\r\nERROR: fake\u202e\x9b.jpg"


def test_control_characters_are_escaped(safe: SafeRecords) -> None:
    """A key with control characters stays on its line; line breaks of the message itself stay too."""
    line = _line(safe, "refused %s:\nas it is (%d)", HOSTILE, 3)
    assert line == r"refused images/\x1b[2J\r\nERROR: fake\u202e\x9b.jpg:" + "\nas it is (3)"
    assert _line(safe, "%s", I2vError(HOSTILE)) == r"images/\x1b[2J\r\nERROR: fake\u202e\x9b.jpg"
    assert _line(safe, "a\x1bb\nc", name="prefect") == r"a\x1bb" + "\nc"


def test_wrong_arguments_are_left_to_logging(safe: SafeRecords) -> None:
    """A record whose arguments do not fit is passed on."""
    assert safe("i2v", logging.INFO, "x.py", 1, "%d", ("x",), None).args == ("x",)


def test_json_has_no_control_characters() -> None:
    """JSON output keeps every language readable, and can be read back."""
    text = to_json({"key": HOSTILE + "猫"})
    assert "猫" in text
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char == "\u202e" for char in text)
    assert json.loads(text) == {"key": HOSTILE + "猫"}


def test_the_console_prints_no_control_characters() -> None:
    """A key in a table, a text or a string cannot steer the terminal, and styles still work."""
    stream = io.StringIO()
    console = SafeConsole(file=stream, width=80, force_terminal=True, markup=False, highlight=False)
    table = Table("key")
    table.add_row(Text(HOSTILE))
    for each in (Text(HOSTILE, style="bold"), HOSTILE, table):
        console.print(each)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert shown.count("images/[2J") == 3
    assert re.findall(r"[^\n\w\s\[\]/:.│─┃━┏┓┡┩└┘]", shown) == []
    assert "\x1b[1m" in stream.getvalue()
