"""The job templates for Kubernetes and ECS, the door's manifests and the charts' values: what they bring from where."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from i2v.settings import Settings
from tests.support.paths import ROOT

KUBERNETES = ROOT / "deployments" / "kubernetes"
TEMPLATES: dict[str, dict[str, Any]] = {
    kind: json.loads((ROOT / "deployments" / kind / "base-job-template.json").read_text())
    for kind in ("kubernetes", "ecs")
}
DOOR_ONLY = {"I2V_DOOR_TOKEN", "I2V_GALLERY_TOKEN"}
SECRET_SETTINGS = {
    str(field.validation_alias) for field in Settings.model_fields.values() if "SecretStr" in str(field.annotation)
}
GIVEN_BY_THE_WORKER = {"name", "command", "labels"}
SERVER_ENV = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "deployments/server.env").read_text(), re.MULTILINE))
DIFFERENT_IN_THE_CLUSTER = {"PREFECT_SERVER_API_HOST", "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"}
"""The chart sets these."""
SERVER: dict[str, Any] = yaml.safe_load((KUBERNETES / "prefect-server.values.yaml").read_text())
WORKER: dict[str, Any] = yaml.safe_load((KUBERNETES / "prefect-worker.values.yaml").read_text())
CHART_VALUES = {
    "server": """backgroundServices.automountServiceAccountToken backgroundServices.messaging.docket.existingSecret
        backgroundServices.messaging.docket.existingSecretKey backgroundServices.messaging.redis.existingSecret
        backgroundServices.messaging.redis.existingSecretPasswordKey backgroundServices.messaging.redis.host
        backgroundServices.resources backgroundServices.runAsSeparateDeployment
        externalDatabase.connectionStringSecretKey externalDatabase.existingSecret global.prefect.env
        global.prefect.image.prefectTag postgresql.enabled secret.create server.automountServiceAccountToken
        server.basicAuth.enabled server.basicAuth.existingSecret server.replicaCount server.resources
        server.uiConfig.prefectUiApiUrl""".split(),  # noqa: SIM905 - easier to read than quotes
    "worker": """worker.apiConfig worker.config.installPolicy worker.config.queryInterval worker.config.type
        worker.config.workPool worker.image.prefectTag worker.podDisruptionBudget worker.replicaCount worker.resources
        worker.selfHostedServerApiConfig.apiUrl worker.selfHostedServerApiConfig.basicAuth.enabled
        worker.selfHostedServerApiConfig.basicAuth.existingSecret""".split(),  # noqa: SIM905 - easier to read than quotes
}
"""Values that Prefect's charts have, as of August 2026."""


def _strings(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for inner in value.values():
                yield from _strings(inner)
        case list():
            for inner in value:
                yield from _strings(inner)
        case str():
            yield value


def _paths(values: dict[str, Any], known: list[str], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        path = f"{prefix}{name}"
        nested = isinstance(value, dict) and path not in known
        yield from _paths(value, known, f"{path}.") if nested else [path]


def _container(kind: str) -> dict[str, Any]:
    job = TEMPLATES[kind]["job_configuration"]
    if kind == "ecs":
        return dict(job["task_definition"]["containerDefinitions"][0])
    return dict(job["job_manifest"]["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_declares_what_it_uses(kind: str) -> None:
    """Each placeholder is a variable, and each variable is used, so that no value is silently dropped."""
    template = TEMPLATES[kind]
    used = {name for text in _strings(template["job_configuration"]) for name in re.findall(r"\{\{ (\w+) \}\}", text)}

    assert used == template["variables"]["properties"].keys()
    assert template["variables"]["required"]
    described = {name for name, each in template["variables"]["properties"].items() if each.get("description")}
    assert described == used


def test_an_ecs_run_gets_each_secret_setting() -> None:
    """`make deploy` passes on the public settings; the secrets of a run come from Secrets Manager."""
    assert {"APIXO_API_KEY", "I2V_CALLBACK_SECRET"} <= SECRET_SETTINGS

    secrets = {each["name"]: each["valueFrom"] for each in _container("ecs")["secrets"]}
    assert secrets == {name: f"{{{{ secret_arn }}}}:{name}::" for name in SECRET_SETTINGS - DOOR_ONLY}


def test_runs_and_doors_in_kubernetes_get_every_setting() -> None:
    """The keys of one secret are the environment of doors and runs."""
    documents = list(yaml.safe_load_all((KUBERNETES / "door.yaml").read_text()))
    (door,) = [each["spec"]["template"]["spec"]["containers"][0] for each in documents if each["kind"] == "Deployment"]
    secret = TEMPLATES["kubernetes"]["variables"]["properties"]["secret"]["default"]

    assert door["envFrom"] == [{"secretRef": {"name": secret}}]
    assert _container("kubernetes")["envFrom"] == [{"secretRef": {"name": "{{ secret }}"}}]
    names = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert {each["name"] for each in door["env"]} - {"HOME"} <= names


def test_the_doors_probes_use_its_routes() -> None:
    """Readiness asks whether notifications become runs; startup and liveness only whether the door answers."""
    documents = list(yaml.safe_load_all((KUBERNETES / "door.yaml").read_text()))
    (door,) = [each["spec"]["template"]["spec"]["containers"][0] for each in documents if each["kind"] == "Deployment"]

    paths = {kind: door[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/", "liveness": "/", "readiness": "/healthz"}
    routes = (ROOT / "doors/http/app.py").read_text()
    assert all(f'Route("{path}"' in routes for path in paths.values())


@pytest.mark.parametrize("kind", TEMPLATES)
def test_runs_get_heartbeats_and_time_to_end(kind: str) -> None:
    """A run has i2v's heartbeat, and as long to end as a submit may take, or the longest that the platform allows."""
    environment = TEMPLATES[kind]["variables"]["properties"]["env"]["default"]
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "60"

    pod = TEMPLATES["kubernetes"]["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert {"ecs": _container("ecs").get("stopTimeout"), "kubernetes": pod["terminationGracePeriodSeconds"]}[
        kind
    ] >= 120


def test_the_charts_run_the_locked_prefect() -> None:
    """Server and worker have the version of requirements.txt, since Prefect supports no older server than client."""
    found = re.search(r"^prefect==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert found

    assert SERVER["global"]["prefect"]["image"]["prefectTag"] == f"{found[1]}-python3.11"
    assert WORKER["worker"]["image"]["prefectTag"] == f"{found[1]}-python3.11-kubernetes"


def test_the_servers_settings_are_those_of_server_env() -> None:
    """The chart's servers have the settings that are measured and tested."""
    assert SERVER_ENV
    values = {each["name"]: each.get("value") for each in SERVER["global"]["prefect"]["env"]}

    expected = {name: value for name, value in SERVER_ENV.items() if name not in DIFFERENT_IN_THE_CLUSTER}
    assert {name: values.get(name) for name in expected} == expected


def test_the_charts_know_every_value() -> None:
    """Each value exists in Prefect's charts; Helm would silently ignore a misspelled one."""
    for name, values in {"server": SERVER, "worker": WORKER}.items():
        assert sorted(_paths(values, CHART_VALUES[name])) == sorted(CHART_VALUES[name])
