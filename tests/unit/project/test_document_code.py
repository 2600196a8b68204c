"""Code blocks in the documentation work: commands parse, data is valid, examples match the code that reads them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from i2v.apixo.answers import Answer
from i2v.apixo.errors import accepted_task
from i2v.apixo.models import SubmitBody
from i2v.cli.app import app
from i2v.inputs.batch_files import BatchFile
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.settings import Settings
from tests.support.documents import CodeBlock, code_blocks, code_lines
from tests.support.paths import ROOT

LANGUAGES = {"diff", "sh", "json", "jsonl", "csv", "ini", "mermaid", "sql", "yaml"}
"""Each has its tests here; the diagram's is in `test_documents`, those of SQL and dbt in `test_warehouse_page`."""
OTHER_PROGRAMS = {
    *(".", "aws", "cd", "cp", "git", "grep", "helm", "kubectl", "mc", "nginx", "openssl", "sed", "set", "ssh"),
    *("apt-get", "chmod", "systemctl", "usermod", "xargs"),
}
"""Programs of the shell and of other projects; only the paths among their arguments are checked."""
OTHER_VARIABLES = {
    *("COMPOSE_FILE", "GIT_COMMIT", "GIT_REPOSITORY", "HTTPS_PROXY", "NO_PROXY"),
    *("PREFECT_API_URL", "PREFECT_UI_URL", "PREFECT_WORKER_QUERY_SECONDS"),
}
PREFECT = {
    "worker start --pool i2v",
    "server start",
    "cloud login",
    "server services start",
    "work-pool create i2v --type ecs --base-job-template deployments/ecs/base-job-template.json",
    "server start --no-services",
    "work-pool set-concurrency-limit i2v 24",
    "work-pool pause i2v",
    "work-pool resume i2v",
    "flow-run ls --state-type RUNNING --state-type PENDING",
}
"""Prefect's commands that the pages use; the sandbox and the pipeline tests start the first two."""
ROOT_COMMAND: Any = typer.main.get_command(app)


def _options(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Return each command from this one on, with its options."""
    found = {path: {option for param in command.params for option in param.opts}}
    for name, inner in getattr(command, "commands", {}).items():
        found |= _options(inner, (*path, name))
    return found


OPTIONS = _options(ROOT_COMMAND)


def _commands(block: CodeBlock) -> Iterator[list[str]]:
    """Yield the simple commands of a shell block, without comments and `sudo`."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                yield from [command] if command else []
                command = []
            elif word != "sudo" or command:
                command.append(word)


def _parse_i2v(words: list[str]) -> None:
    """Parse a command line of `i2v` as the command does; raise if it is wrong."""
    command = ROOT_COMMAND
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    assert command is not ROOT_COMMAND, f"no such command: {words}"
    command.make_context(command.name, list(words)).close()


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert f"$({name})" in makefile if is_variable else re.search(rf"^{name}:", makefile, re.MULTILINE), word


def _check_python(words: list[str]) -> None:
    assert words[0] == "-m"
    assert find_spec(words[1]), words


def _check_export(words: list[str]) -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()} | OTHER_VARIABLES
    assert [word for word in words if word.partition("=")[0] not in known] == []


def _check_docker(words: list[str]) -> None:
    """Check what a container of `docker compose run --rm SERVICE` runs: the image has the commands of the checkout."""
    if "--rm" in words:
        program, *arguments = words[words.index("--rm") + 2 :]
        _check_command([f".venv/bin/{program}", *arguments])


CHECKS = {
    ".venv/bin/i2v": _parse_i2v,
    ".venv/bin/python": _check_python,
    "docker": _check_docker,
    "make": _check_make,
    "export": _check_export,
}


def _check_command(words: list[str]) -> None:
    if words[0].endswith("=$(aws"):
        words = ["aws", *words[1:]]
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program in CHECKS:
        CHECKS[program](arguments)
    elif program == ".venv/bin/prefect":
        assert " ".join(arguments) in PREFECT
    else:
        assert program in OTHER_PROGRAMS, f"unknown program: {program}"
    paths = [word for word in words if re.match(r"(?:deployments|samples|docs|tests)/", word)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("block", code_blocks("sh"), ids=str)
def test_shell_blocks_run_commands_that_exist(block: CodeBlock) -> None:
    """A shell block is valid shell; its commands, options, values, targets, modules, variables and files exist."""
    assert subprocess.run(["/bin/sh", "-n"], input=block.text, text=True, check=False).returncode == 0
    commands = list(_commands(block))
    assert commands

    for words in commands:
        _check_command(words)


def test_a_wrong_command_is_noticed() -> None:
    """The check above rejects an unknown option, value, target, variable, module and file."""
    wrong = (
        ".venv/bin/i2v run a.jpg --no-such-option",
        ".venv/bin/i2v run a.jpg --mode turbo",
        "make no-such-target",
        "export I2V_NO_SUCH=1",
        ".venv/bin/python -m no_such_module",
        "cp deployments/no-such-file there",
        "no-such-program",
    )
    for line in wrong:
        with pytest.raises(Exception):  # noqa: B017, PT011 - an assertion or one of the parser's errors
            _check_command(shlex.split(line))


def test_command_lines_in_sentences_exist() -> None:
    """Each `i2v …` in a sentence or table names a command that exists, with options that exist."""
    lines = [line for line in code_lines() if re.match(r"(?:\.venv/bin/)?i2v [a-z]", line)]
    assert len(lines) > 20

    for line in lines:
        words = line.split()[1:]
        path = tuple(words[:2]) if tuple(words[:2]) in OPTIONS else tuple(words[:1])
        assert path in OPTIONS, line
        assert {word for word in words if word.startswith("--")} <= OPTIONS[path], line


def test_options_in_sentences_exist() -> None:
    """An option that a page names alone is an option of some command."""
    named = {line.split()[0] for line in code_lines() if re.match(r"--[a-z]", line)}
    assert "--max-spend" in named

    assert named - set().union(*OPTIONS.values()) == set()


def test_every_language_has_its_checks() -> None:
    """The pages hold blocks of these languages and of no other, so no block goes unchecked."""
    assert {block.language for block in code_blocks()} == LANGUAGES


@pytest.mark.parametrize("block", code_blocks("diff"), ids=str)
def test_a_diff_fits_the_installed_package(block: CodeBlock) -> None:
    """The lines that each hunk replaces are in the installed file. After an upgrade: measure the patch again."""
    spec = find_spec("prefect")
    assert spec
    assert spec.origin
    for part in re.split(r"^--- a/", block.text, flags=re.MULTILINE)[1:]:
        source = (Path(spec.origin).parent.parent / part.partition("\n")[0]).read_text()
        hunks = re.split(r"^@@.*\n", part, flags=re.MULTILINE)[1:]
        assert hunks
        for hunk in hunks:
            old = [line[1:] for line in hunk.splitlines() if not line.startswith("+")]
            assert "\n".join(old) in source, hunk


def _json_of(page: str) -> list[Any]:
    found = [json.loads(block.text) for block in code_blocks("json") if block.page == page]
    assert found, f"no JSON in {page}"
    return found


@pytest.mark.parametrize("block", code_blocks("json"), ids=str)
def test_json_blocks_are_valid(block: CodeBlock) -> None:
    """A JSON block is one JSON value."""
    assert json.loads(block.text)


def test_provider_examples_match_the_contract() -> None:
    """The examples on docs/provider.md are accepted by the models that the client uses."""
    submit, answer, balance = _json_of("docs/provider.md")

    assert SubmitBody.model_validate(submit).wire() == submit
    assert accepted_task(Answer("POST", 200, json.dumps(answer).encode())) == "task_12345678"
    assert balance["data"] > 0


def test_report_example_has_the_fields_of_the_report() -> None:
    """The JSON report on docs/usage.md has the fields, counts and sums of `i2v run --json`."""
    (example,) = _json_of("docs/usage.md")
    item = ItemReport(image="s3://b/k", outcome=Outcome.STORED, cost_usd=Decimal("0.192"))
    real = Report(items=(item,)).for_json()

    assert list(example) == list(real)
    assert list(example["items"][0]) == list(real["items"][0])
    assert {name: example[name] for name in (*Outcome, "spent_usd")} == {
        name: real[name] for name in (*Outcome, "spent_usd")
    }


def test_queue_example_holds_valid_policies() -> None:
    """The policies inside the SQS example on docs/doors.md are valid JSON for the same queue."""
    queue = _json_of("docs/doors.md")[0]

    assert json.loads(queue["RedrivePolicy"])["deadLetterTargetArn"].endswith("-dead")
    assert json.loads(queue["Policy"])["Statement"][0]["Action"] == "sqs:SendMessage"


@pytest.mark.parametrize("language", ["csv", "jsonl"])
def test_batch_file_examples_are_read_without_errors(language: str) -> None:
    """The example batch files on docs/usage.md are valid batch files of two rows."""
    (block,) = code_blocks(language)
    rows = BatchFile(f"example.{language}", block.text.encode()).resolve_rows(lambda row: row)

    assert len(rows) == 2


def test_unit_file_example_starts_the_worker() -> None:
    """The systemd unit on docs/deploying.md is a valid unit that starts a worker, which polls every 2 s."""
    (block,) = [each for each in code_blocks("ini") if each.text.startswith("[Unit]")]
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(block.text)

    assert unit["Service"]["ExecStart"].endswith(".venv/bin/prefect worker start --pool i2v")
    assert unit["Service"]["Environment"] == "PREFECT_WORKER_QUERY_SECONDS=2"
