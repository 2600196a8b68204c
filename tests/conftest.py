"""What tests of all tiers share: the sandbox, settings that do not look at the environment, and the tiers' police.

Tiers are folders: `tests/unit` needs no server, `tests/integration` and `tests/crash` may ask for `sandbox`, only
`tests/pipeline` may import Prefect or ask for `prefect_server`, and only `tests/ui`, which `make test` leaves alone,
may drive a browser. A test in the wrong one fails the collection. Sample
images come from `sandbox.pictures`. Keep fixtures of one subject in that subject's own file.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Dials, Provider

TESTS = Path(__file__).parent
TIERS = {
    "unit": "milliseconds, no server, no Prefect",
    "integration": "real sockets and the sandbox, no Prefect",
    "crash": "real processes that are killed; no Prefect",
    "pipeline": "Prefect's own test server",
    "ui": "a real browser, on what real processes made; no part of make test",
}
OUTSIDE = ("AWS_", "I2V_", "APIXO_")
BROWSERS = {"browser", "new_visit"}
SERVERS = {"sandbox_server", "sandbox", "provider", "settings"}
SETTINGS_MAKER = Callable[..., Settings]


class SealedSettings(Settings):
    """Settings from what they are given and nothing else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


@pytest.fixture(scope="session", autouse=True)
def no_outside() -> Iterator[None]:
    """Nobody's keys, buckets or proxies: a test that forgets to say where it goes must not reach the world."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.upper().startswith(OUTSIDE) or name.upper().endswith("_PROXY"):
                environment.delenv(name)
        yield


@pytest.fixture(scope="session")
def sandbox_server(no_outside: None) -> Iterator[Sandbox]:
    """The one sandbox of this worker, started when first asked for (0.7 s). Tests ask for `sandbox` instead."""
    with Sandbox(Dials(render_seconds=0.2, fast=True)) as box:
        yield box


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Sandbox:
    """Provider emulator and S3 with a bucket of its own; nothing billed, no task, $1000, 0.2 s of rendering.

    `sandbox.env` are all variables to set, `sandbox.s3()` a boto3 client, `sandbox.bucket` the bucket,
    `sandbox.put_image(key, data, **metadata)`, `sandbox.keys(prefix)`, `sandbox.read(key)`, `sandbox.read_json(key)`;
    `sandbox.provider` is the emulator: see `provider`.
    """
    return sandbox_server.fresh()


@pytest.fixture
def provider(sandbox: Sandbox) -> Provider:
    """The emulator: `.base_url`, `.journal`, `.tasks`, `.billed()`, `.status_requests()`, `.settings(…)` and more."""
    return sandbox.provider


@pytest.fixture
def make_settings() -> SETTINGS_MAKER:
    """Settings from variables and not the environment: `make_settings(**sandbox.env, I2V_MAX_ATTEMPTS=1)`."""

    def make(**variables: Any) -> Settings:
        return SealedSettings(**variables)

    return make


@pytest.fixture
def settings(sandbox: Sandbox, make_settings: SETTINGS_MAKER) -> Settings:
    """The sandbox's settings, with a poll schedule shortened as its rendering is."""
    return make_settings(**sandbox.env)


def pytest_configure(config: pytest.Config) -> None:
    """Name the tiers, so that `-m unit` works."""
    for tier, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier and refuse those in the wrong one."""
    wrong = [f"{item.nodeid} {crime}" for item in items if (crime := _crime(item))]
    if wrong:
        raise pytest.UsageError("tests in the wrong tier:\n  " + "\n  ".join(wrong))


def _crime(item: pytest.Item) -> str | None:
    tier = item.path.relative_to(TESTS).parts[0]
    if tier not in TIERS:
        return f"lies in none of the tiers {', '.join(TIERS)}"
    item.add_marker(tier)
    asked = set(getattr(item, "fixturenames", ()))
    if tier != "pipeline" and "prefect_server" in asked:
        return "asks for prefect_server, which only tests/pipeline may"
    if tier != "pipeline" and "prefect" in _imports(item.path):
        return "imports Prefect, which only tests/pipeline may"
    if tier != "ui" and (asked & BROWSERS or "playwright" in _imports(item.path)):
        return "drives a browser, which only tests/ui may"
    if tier == "unit" and asked & SERVERS:
        return f"asks for {', '.join(sorted(asked & SERVERS))}, which tests/unit may not"
    return None


@cache
def _imports(path: Path) -> set[str]:
    """The packages that a file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.split(".")[0] for name in names}
