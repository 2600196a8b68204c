"""The errors of `i2v run`, compared with `docs/errors.md`, which is generated from these runs.

Add a case to `CASES`, then regenerate: `WRITE_DOCS=1 python -m pytest tests/pipeline/cli/test_errors.py`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import pytest

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg, make_webp
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import Result, bare_env
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "errors.md"
AT_ONCE = 3
START, END = "<!-- cases -->", "<!-- end of cases -->"

pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Case:
    """One possible error.

    Args:
        what: its name on the page.
        code: the exit code.
        words: the arguments of `i2v run`; `{bucket}` and `{files}` (a folder) are replaced.
        variables: changes to the environment; None unsets a variable.
        part: the section of the page.
    """

    what: str
    code: int
    words: tuple[str, ...] = ("s3://{bucket}/images/", "--prompt", "it moves")
    variables: Mapping[str, str | None] = field(default_factory=dict)
    part: str = "settings"


def _object(name: str) -> tuple[str, ...]:
    return (f"s3://{{bucket}}/{name}", "--prompt", "it moves")


def _file(name: str) -> tuple[str, ...]:
    return (f"{{files}}/{name}", "--prompt", "it moves")


CASES = {
    # usage and settings: reported before Prefect starts
    "no_key": Case("no key", 2, variables={"APIXO_API_KEY": None}),
    "no_bucket_set": Case("no bucket set", 2, variables={"I2V_BUCKET": None}),
    "bad_setting": Case("an invalid setting", 2, variables={"I2V_POLL_EVERY_SECONDS": "soon"}),
    "prefixes": Case("one prefix inside another", 2, variables={"I2V_VIDEOS_PREFIX": "images/videos/"}),
    "template": Case("a prompt with an unknown field", 2, ("s3://{bucket}/images/", "--prompt", "{name}")),
    "no_file": Case("a path that does not exist", 2, ("tomm.jpg", "--prompt", "it moves")),
    "two_files": Case("two files with the same key", 2, ("{files}/a/tom.jpg", "{files}/b/tom.jpg")),
    "other_bytes": Case("a file whose key belongs to another image", 2, _file("a/tom.jpg")),
    "columns": Case("a batch file with a misspelled column", 2, ("{files}/wishes.csv",)),
    "bad_rows": Case("rows that cannot be used", 2, ("{files}/rows.csv",)),
    # account and money
    "wrong_key": Case("wrong key", 3, variables={"APIXO_API_KEY": "sk-wrong"}, part="money"),
    "no_balance": Case("no balance", 3, part="money"),
    "max_spend": Case(
        "`--max-spend` below the cost", 3, (*_object("images/good.jpg"), "--max-spend", "0.1"), part="money"
    ),
    "daily_cap": Case("the daily cap is exceeded", 3, variables={"I2V_DAILY_CAP_USD": "0.1"}, part="money"),
    "other_account": Case("a ledger of another account", 2, variables={"I2V_ACCOUNT_LABEL": "other"}, part="money"),
    # unreachable services
    "no_provider": Case(
        "the provider is unreachable", 3, variables={"APIXO_BASE_URL": "https://127.0.0.1:{closed}"}, part="servers"
    ),
    "no_s3": Case("S3 is unreachable", 3, variables={"AWS_ENDPOINT_URL": "http://127.0.0.1:{closed}"}, part="servers"),
    "no_bucket": Case("the bucket does not exist", 3, variables={"I2V_BUCKET": "not-there"}, part="servers"),
    "no_rights": Case("no permission for the bucket", 3, variables={"AWS_ENDPOINT_URL": "{refusing}"}, part="servers"),
    "no_prefect": Case(
        "the Prefect server is unreachable",
        3,
        variables={"PREFECT_API_URL": "http://127.0.0.1:{closed}/api"},
        part="servers",
    ),
    # images
    "empty_prefix": Case("an empty prefix", 3, _object("images/nothing/"), part="images"),
    "empty_folder": Case("a folder without images", 3, _file("none"), part="images"),
    "no_object": Case("an object that does not exist", 3, _object("images/tomm.jpg"), part="images"),
    "no_prompt": Case("no prompt", 3, ("s3://{bucket}/images/good.jpg",), part="images"),
    "px_300": Case("a 300 px image", 3, _object("images/px-300.jpg"), part="images"),
    "text": Case("a text file named .jpg", 3, _file("text.jpg"), part="images"),
    "webp": Case("a WebP named .jpg", 3, _file("webp.jpg"), part="images"),
    "ratio": Case("a 2:5 image", 3, _file("ratio-2-5.jpg"), part="images"),
    "mb_21": Case("a 21 MB image", 3, _file("mb-21.jpg"), part="images"),
    "cut": Case("a truncated image", 3, _file("cut.jpg"), part="images"),
    "empty": Case("an empty file", 3, _file("empty.jpg"), part="images"),
    "long_prompt": Case(
        "a prompt of 2,001 characters", 3, (*_file("px-301.jpg")[:1], "--prompt", "x" * 2001), part="images"
    ),
}
PARTS = {
    "settings": "Usage and settings",
    "money": "Account and money",
    "servers": "Services",
    "images": "Images",
}


def _make_files(folder: Path) -> None:
    for name in ("a", "b", "none"):
        (folder / name).mkdir()
    (folder / "a/tom.jpg").write_bytes(make_jpeg(seed=1))
    (folder / "b/tom.jpg").write_bytes(make_jpeg(seed=2))
    (folder / "wishes.csv").write_text("image,promt\ntom.jpg,it moves\n")
    (folder / "rows.csv").write_text("image,mode\ntom.jpg,fast\n")
    good = make_jpeg(640, 480)
    images = {
        "text.jpg": b"just some text, saved under a wrong name\n" * 9,
        "webp.jpg": make_webp(640, 480),
        "ratio-2-5.jpg": make_jpeg(400, 1000),
        "mb-21.jpg": good + bytes(21_000_000 - len(good)),
        "cut.jpg": good[: len(good) // 2],
        "empty.jpg": b"",
        "px-301.jpg": make_jpeg(301, 400),
    }
    for name, body in images.items():
        (folder / name).write_bytes(body)


@dataclass
class World:
    """The sandbox and Prefect server that the cases run in."""

    box: Sandbox
    api_url: str
    folder: Path
    refusing: str
    closed: int
    filling: Lock = field(default_factory=Lock)
    """The sandbox has one bucket at a time."""

    def _fill(self) -> dict[str, str]:
        """Return the environment for a new bucket with the images of the cases."""
        with self.filling:
            self.box.new_bucket()
            self.box.put_image("images/good.jpg", make_jpeg(640, 480))
            self.box.put_image("images/px-300.jpg", make_jpeg(300, 400))
            self.box.put_image("images/tom.jpg", make_jpeg(seed=3))
            return self.box.env

    def run(self, case: Case) -> Result:
        """Run one case, in a bucket of its own."""
        env = bare_env(**self._fill(), PREFECT_API_URL=self.api_url, PREFECT_HOME=str(self.folder / "home"))
        bucket = env["I2V_BUCKET"]
        places = {"bucket": bucket, "files": str(self.folder), "refusing": self.refusing, "closed": self.closed}
        if case is CASES["other_account"]:
            assert forked_i2v("pause", env=env).code == forked_i2v("resume", env=env).code == 0
        for name, value in case.variables.items():
            env.pop(name, None)
            if value is not None:
                env[name] = value.format(**places)
        words = [word if "{name}" in word else word.format(**places) for word in case.words]
        return forked_i2v("run", *words, "--json", env=env)


@pytest.fixture(scope="module")
def results(
    sandbox_server: Sandbox, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Result]]:
    """The result of every case; some run in parallel."""
    box, folder = sandbox_server.reset(), tmp_path_factory.mktemp("files")
    _make_files(folder)
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(box.aws.address))
        proxy.add(FaultRule("fail", status=403, code="AccessDenied", times=None))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # bound, but not listening
        world = World(box, prefect_server.api_url, folder, proxy.url, closed.getsockname()[1])
        box.provider.set_options(balance_usd=0)
        poor = world.run(CASES["no_balance"])
        box.provider.set_options(balance_usd=1000)
        others = [name for name in CASES if name != "no_balance"]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(others, pool.map(lambda name: world.run(CASES[name]), others), strict=True))
        found["no_balance"] = poor
        assert sum(box.provider.billed().values()) == 0, "something was billed"
        yield {name: _plain(found[name], world) for name in CASES}


def _plain(result: Result, world: World) -> Result:
    """Replace what differs from run to run."""
    changes: tuple[tuple[str, str], ...] = (
        (re.escape(f"{world.folder}/"), ""),
        (re.escape(str(world.folder)), ""),
        (r"i2v-[0-9a-f]{12}", "my-bucket"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:…"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…"),
        (r"x{100,}", "…"),
    )
    err = result.err
    for pattern, text in changes:
        err = re.sub(pattern, text, err)
    return Result(result.code, result.out, err)


def _cell(result: Result) -> str:
    """Return error and hint as a cell of the table."""
    lines = [line for line in result.err.splitlines() if line.startswith(("error: ", "hint: "))]
    return "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in lines).replace("|", "\\|")


def _rows(results: Mapping[str, Result], part: str) -> list[str]:
    return [
        f"| {case.what} | {case.code} | {_cell(results[name])} |" for name, case in CASES.items() if case.part == part
    ]


@pytest.mark.parametrize("name", CASES)
def test_an_error_has_its_exit_code_and_no_traceback(name: str, results: dict[str, Result]) -> None:
    """Each case ends with its exit code and exactly one error, without a traceback or the API key."""
    assert (CASES[name].code, 1) == (results[name].code, len(results[name].errors)), results[name].err
    assert "Traceback" not in results[name].err
    assert "sk-wrong" not in results[name].err + results[name].out


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code == 3])
def test_a_run_that_stopped_still_prints_its_report(name: str, results: dict[str, Result]) -> None:
    """With `--json`, stdout is one JSON object even if nothing was submitted, and the spend is 0."""
    report = results[name].report
    assert (report["spent_usd"], report["at_risk_usd"], report["stored"], report["submitted"]) == (0, 0, 0, 0)


def test_bad_rows_are_listed_on_stdout(results: dict[str, Result]) -> None:
    """With `--json`, a script gets all rows that cannot be used, not only those that the message names."""
    assert [(row["line"], row["column"]) for row in results["bad_rows"].report["bad_rows"]] == [(2, "mode")]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code == 2 and name != "bad_rows"])
def test_wrong_usage_prints_nothing_on_stdout(name: str, results: dict[str, Result]) -> None:
    """Exit code 2 prints no report, except for a batch file's rows."""
    assert results[name].out == ""


def test_the_page_of_errors_is_up_to_date(results: dict[str, Result]) -> None:
    """Every message in docs/errors.md is one that a real run prints."""
    tables = "\n\n".join(
        f"## {title}\n\n| error | exit code | message |\n|---|---|---|\n" + "\n".join(_rows(results, part))
        for part, title in PARTS.items()
    )
    head, rest = PAGE.read_text().split(START)
    tail = rest.split(END)[1]
    page = f"{head}{START}\n\n{tables}\n\n{END}{tail}"
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page)
    missing = set(page.splitlines()) - set(PAGE.read_text().splitlines())
    assert set() == missing, "regenerate it with WRITE_DOCS=1"
