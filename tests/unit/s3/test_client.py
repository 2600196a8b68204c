"""What users configure for boto3 counts; i2v only changes defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from i2v.errors import UsageError
from i2v.s3.client import ATTEMPTS, s3_client


def config_of(client: Any) -> Any:
    """Return a client's settings."""
    return client.meta.config


def test_the_defaults() -> None:
    """Standard retries, checksums where S3 requires them, and signatures of version 4."""
    config = config_of(s3_client())
    assert config.retries == {"mode": "standard", "total_max_attempts": ATTEMPTS}
    assert config.request_checksum_calculation == config.response_checksum_validation == "when_required"
    assert config.signature_version == "s3v4"


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts, retry mode, checksums and region come from the environment."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    client = s3_client()
    assert config_of(client).retries == {"mode": "adaptive", "total_max_attempts": 7}
    assert config_of(client).request_checksum_calculation == "when_supported"
    assert config_of(client).response_checksum_validation == "when_supported"
    assert client.meta.region_name == "eu-west-1"


def test_the_config_file_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile of the config file sets region, attempts and retry mode."""
    (tmp_path / "config").write_text("[profile p]\nregion = eu-north-1\nmax_attempts = 9\nretry_mode = legacy\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "p")
    client = s3_client()
    assert config_of(client).retries == {"mode": "legacy", "total_max_attempts": 9}
    assert client.meta.region_name == "eu-north-1"


def test_the_variable_of_boto3_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_DEFAULT_REGION, which boto3 reads, overrides AWS_REGION, which it does not."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert s3_client().meta.region_name == "eu-west-2"


@pytest.mark.parametrize(("name", "value"), [("PROFILE", "no-such-profile"), ("MAX_ATTEMPTS", "many")])
def test_a_setting_that_cannot_be_used_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A missing profile or a wrong number ends in one sentence."""
    monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(UsageError, match="AWS settings cannot be used"):
        s3_client()
