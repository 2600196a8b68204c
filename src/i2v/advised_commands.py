"""The commands that i2v advises, as this installation types them: `command("jobs", "show", key)`.

Every message that names a command takes it from here. Which command helps is in `i2v.reports.advice`.
"""

import shlex
import shutil
import sys
import sysconfig
from decimal import Decimal
from pathlib import Path

NAME = "i2v"
EXAMPLE_PROMPT = "slow push in"
MAX_RUN_CHARS = 1_000
"""A longer command, because of its prompt, is not advised: pages have a maximum size."""


def command(*words: str) -> str:
    """Return a command line of i2v with these arguments, quoted for a shell."""
    return " ".join([program(), *map(quoted, words)])


def program() -> str:
    """Return `i2v` if PATH has this installation's, else its path as it was typed, else the path in a checkout."""
    own = Path(sysconfig.get_path("scripts"), NAME)
    found = shutil.which(NAME)
    if found and Path(found).resolve() == own.resolve():
        return NAME
    if Path(sys.argv[0]).name == NAME:
        return quoted(sys.argv[0])
    folder = own.parent.parent.name  # the process is a worker or a door: its reader is in a checkout of the project
    return f"{folder}/bin/{NAME}" if own.exists() and folder.startswith(".") else NAME


def quoted(word: str) -> str:
    """Return the word for bash and zsh; one with line breaks or control characters stays on one line."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def run_arguments(
    image: str,
    *,
    prompt: str | None = None,
    override_prompts: bool = False,
    mode: str | None = None,
    duration: int | None = None,
    take: int | None = None,
    label: str | None = None,
    max_spend_usd: Decimal | None = None,
) -> str:
    """Return the quoted arguments of `i2v run` for one image; empty if they are too long. Defaults are left out."""
    words = ["run", image]
    words += ["--prompt", prompt] if prompt else []
    words += ["--override-prompts"] if override_prompts else []
    words += ["--mode", mode] if mode == "pro" else ["--duration", "10"] if duration == 10 else []  # noqa: PLR2004 - seconds
    words += ["--take", str(take)] if take and take > 1 else []
    words += ["--label", label] if label else []
    words += ["--max-spend", f"{max_spend_usd:f}"] if max_spend_usd is not None else []
    line = " ".join(map(quoted, words))
    return line if len(line) <= MAX_RUN_CHARS else ""
