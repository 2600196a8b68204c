"""The commands in README.md and docs/usage.md, as processes against the sandbox."""

from __future__ import annotations

import shlex

from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.documents import code_blocks
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import bare_env

PAGES = {"README.md", "docs/usage.md"}
NEED_NO_PREFECT = {"doctor", "estimate", "jobs", "reconcile", "pause", "resume"}
NEED_A_JOB = {"show", "resolve"}


def _documented_commands() -> list[list[str]]:
    """Return the arguments of each `i2v` command that runs without Prefect and without a known job."""
    blocks = [block for block in code_blocks("sh") if block.page in PAGES]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.text.splitlines()]
    commands = {tuple(words[1:]): None for words in lines if words and words[0] == ".venv/bin/i2v"}
    free = [list(words) for words in commands if words[0] in NEED_NO_PREFECT or "--dry-run" in words]
    return [words for words in free if not NEED_A_JOB & set(words)]


def test_documented_commands_succeed(sandbox: Sandbox) -> None:
    """Each command that needs neither Prefect nor a known job exits with 0 against the sandbox."""
    sandbox.put_image("images/cats/tom.jpg", make_jpeg(400, 400))
    env = bare_env(**sandbox.env, I2V_DEFAULT_PROMPT="it moves")
    commands = [[word.replace("my-bucket", sandbox.bucket) for word in words] for words in _documented_commands()]
    assert {words[0] for words in commands} == NEED_NO_PREFECT | {"run"}

    results = [(words, forked_i2v(*words, env=env)) for words in commands]
    assert [(words, result.err) for words, result in results if result.code] == []
