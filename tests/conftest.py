"""Fixtures for all tiers: the sandbox, and settings that ignore the environment.

Each folder here is a tier; `tests/support/tiers.py` says what a test in it may use, and collection fails otherwise.
Keep only fixtures here; classes and functions go to `tests/support/`. Sample images: `sandbox.synthetic_images`.
"""

from __future__ import annotations

import gc
import os
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import boto3
import hypothesis
import pytest

from i2v.s3.client import new_session
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider, ProviderOptions
from tests.support.certificate_authority import own_authority
from tests.support.settings import MakeSettings, SealedSettings
from tests.support.tiers import TIERS, indirect_violation, tier_of, tier_violation

OUTSIDE = ("AWS_", "I2V_", "APIXO_")
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
GARBAGE_THRESHOLD = 50_000
hypothesis.settings.register_profile("i2v", deadline=None)  # time decides no test: the machine may be busy
hypothesis.settings.load_profile("i2v")


@pytest.fixture(scope="session", autouse=True)
def no_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove credentials, bucket names and proxies from the environment, so that no test reaches a real service.

    PATH has this installation's commands, so that messages name it `i2v`.
    Only one root certificate, a test's own, is trusted: each HTTP client loads all of them, which takes 20 ms of CPU.
    """
    _, root = own_authority(tmp_path_factory.mktemp("authority"), "localhost")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(root))
        environment.setenv("PATH", os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
        for name in list(os.environ):
            if name.upper().startswith(OUTSIDE) or name.upper().endswith("_PROXY"):
                environment.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_aws_sessions() -> Iterator[None]:
    """Create one boto3 session for each AWS environment, and not one for each run: it takes 10 ms of CPU."""
    make: Callable[[frozenset[tuple[str, str]]], boto3.Session] = cache(lambda _: new_session())

    def shared() -> boto3.Session:
        return make(frozenset(one for one in os.environ.items() if one[0].startswith(("AWS_", "HOME", *CERTIFICATES))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("i2v.s3.storage.new_session", shared)
        yield


@pytest.fixture(scope="session")
def sandbox_server(no_outside: None) -> Iterator[Sandbox]:
    """Start this worker's sandbox on first use (0.7 s). Tests use `sandbox` instead."""
    with Sandbox(ProviderOptions(render_seconds=0.2, fast=True)) as box:
        yield box


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Sandbox:
    """Return the provider emulator and S3 with a new bucket; no tasks, a balance of $1000, 0.2 s of rendering.

    `sandbox.env` holds the environment variables to set, `sandbox.s3()` is a boto3 client, `sandbox.bucket` the
    bucket's name. Shortcuts: `sandbox.put_image(key, data, **metadata)`, `sandbox.keys(prefix)`, `sandbox.read(key)`,
    `sandbox.read_json(key)`. `sandbox.provider` is the emulator, see `provider`.
    """
    return sandbox_server.reset()


@pytest.fixture
def provider(sandbox: Sandbox) -> Provider:
    """Return the emulator: `.base_url`, `.request_log`, `.tasks`, `.billed()`, `.set_options(…)`."""
    return sandbox.provider


@pytest.fixture
def make_settings() -> MakeSettings:
    """Make settings from the arguments alone: `make_settings(**sandbox.env, I2V_MAX_ATTEMPTS=1)`."""

    def make(**variables: Any) -> Settings:
        return SealedSettings(**variables)

    return make


@pytest.fixture
def settings(sandbox: Sandbox, make_settings: MakeSettings) -> Settings:
    """Return settings for the sandbox, with poll intervals as short as its rendering."""
    return make_settings(**sandbox.env)


def pytest_configure(config: pytest.Config) -> None:
    """Register the tiers as markers, for `-m unit`."""
    for tier, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {meaning}")


def pytest_sessionstart() -> None:
    """Collect no garbage while the tests are imported and collected."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, without going through all tests each time."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier; refuse tests in the wrong tier."""
    wrong = [f"{item.nodeid} {violation}" for item in items if (violation := tier_violation(item))]
    wrong += filter(None, [indirect_violation(items)])
    if wrong:
        raise pytest.UsageError("tests in the wrong tier:\n  " + "\n  ".join(wrong))
    for item in items:
        item.add_marker(tier_of(item.path))
