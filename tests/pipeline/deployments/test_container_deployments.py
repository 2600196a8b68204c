"""Deployments whose runs are containers: their steps, and the job templates for Kubernetes and ECS."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPool
from prefect_aws.workers.ecs_worker import ECSJobConfiguration, ECSWorker

from deployments.container_steps import check_pool, with_image
from deployments.sync_deployments import load_deployments, read_config, set_up_deployment
from deployments.work_pool import HEARTBEAT, POOL, job_environment
from i2v.errors import Stopped, UsageError
from sandbox.prefect_server import PrefectServer
from tests.support.paths import ROOT

FILES = [ROOT / "deployments" / name for name in ("prefect.container.yaml", "prefect.git.yaml")]
IMAGE = "registry.test:5000/i2v:0.1.0"
GIT = {"GIT_REPOSITORY": "https://git.test/i2v.git", "GIT_COMMIT": "0123abc"}
SECRET_ARN = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:i2v"
ECS_VALUES = {
    "secret_arn": SECRET_ARN,
    "execution_role_arn": "arn:aws:iam::111122223333:role/execution",
    "task_role_arn": "arn:aws:iam::111122223333:role/i2v-worker",
    "cluster": "i2v",
}
with_tools = pytest.mark.skipif(not os.environ.get("TEST_DEPLOYMENTS"), reason="make test-deployments runs it")


def _template(kind: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "deployments" / kind / "base-job-template.json").read_text()))


def _steps(file: Path) -> list[tuple[str, dict[str, Any]]]:
    config = yaml.safe_load(file.read_text())
    return [item for kind in ("build", "push", "pull") for step in config.get(kind, []) for item in step.items()]


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables of prefect.git.yaml."""
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_prefect_knows_every_key_and_step(file: Path) -> None:
    """Prefect knows every key, and each step of its own has the arguments; it would ignore a misspelled key."""
    config = yaml.safe_load(file.read_text())
    PrefectYamlModel.model_validate(config)
    assert set(config) <= {field.alias or name for name, field in PrefectYamlModel.model_fields.items()}
    steps = [(name, given) for name, given in _steps(file) if name.startswith("prefect.")]
    assert steps

    for name, given in steps:
        _bind(name, given)


@with_tools
def test_prefect_docker_knows_every_step() -> None:
    """prefect-docker has the build and push steps, with these arguments."""
    steps = [(name, given) for name, given in _steps(FILES[0]) if name.startswith("prefect_docker.")]
    assert len(steps) == 2

    for name, given in steps:
        _bind(name, given)


def _bind(name: str, given: dict[str, Any]) -> None:
    module, _, function = name.rpartition(".")
    inspect.signature(getattr(importlib.import_module(module), function)).bind(**given)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
async def test_the_deployments_are_those_of_prefect_yaml(git: None, file: Path) -> None:
    """They differ from prefect.yaml in image and pull step alone, so that they cannot drift."""
    config = await with_image(read_config(), IMAGE, file, build=False)

    plain, found = load_deployments(read_config(), {}), load_deployments(config, {})
    assert len(found) == len(plain) >= 6
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.fields["job_variables"] == theirs.fields["job_variables"] | {"image": IMAGE}
        same = {name: value for name, value in ours.fields.items() if name not in {"job_variables", "pull_steps"}}
        assert same == {name: theirs.fields[name] for name in same}
        assert (ours.schedules, ours.triggers) == (theirs.schedules, theirs.triggers)
        (step,) = ours.fields["pull_steps"]
        assert step in (
            {"prefect.deployments.steps.set_working_directory": {"directory": "/srv/i2v"}},
            {"prefect.deployments.steps.git_clone": {"repository": GIT["GIT_REPOSITORY"], "commit_sha": "0123abc"}},
        )


@pytest.mark.parametrize(
    ("image", "file", "build", "message"),
    [
        ("i2v", FILES[0], False, "is not an image with a tag"),
        ("registry.test:5000/i2v", FILES[0], False, "is not an image with a tag"),
        (IMAGE, FILES[1], False, "GIT_COMMIT, GIT_REPOSITORY is not set"),
        (IMAGE, FILES[1], True, "has no build steps"),
        (IMAGE, ROOT / "prefect.yaml", False, "has no pull steps"),
        (IMAGE, ROOT / "no.yaml", False, "cannot be read: No such file"),
    ],
)
async def test_what_cannot_be_used_is_named(image: str, file: Path, build: bool, message: str) -> None:
    """A wrong image or file ends as wrong usage, before anything is built or deployed."""
    with pytest.raises(UsageError, match=message):
        await with_image(read_config(), image, file, build=build)


@pytest.mark.parametrize(("kind", "message"), [(None, "does not exist yet"), ("process", "are processes")])
def test_an_image_needs_a_pool_of_containers(kind: str | None, message: str) -> None:
    """With an image, `make deploy` creates no pool of processes, whose runs would never start in a cluster."""
    with pytest.raises(UsageError, match=message):
        check_pool(_pool(kind) if kind else None)
    check_pool(_pool("kubernetes"))


def _pool(kind: str) -> WorkPool:
    return WorkPool.model_validate({"name": POOL, "type": kind, "default_queue_id": str(uuid4())})


async def test_a_failed_build_says_what_is_needed(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without prefect-docker nothing is deployed, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "prefect_docker", None)

    with pytest.raises(Stopped, match="was not built and pushed") as caught:
        await with_image(read_config(), IMAGE, build=True)

    assert "Install prefect-docker" in caught.value.hint


@with_tools
@pytest.mark.parametrize("kind", ["kubernetes", "ecs"])
async def test_the_server_accepts_template_and_deployments(prefect_server: PrefectServer, kind: str) -> None:
    """A pool with the template takes every deployment with its image, and the runs' environment has no secret."""
    name = f"{POOL}-{kind}"
    config = await with_image(read_config(), IMAGE, build=False)
    async with get_client() as client:
        pool = WorkPoolCreate(name=name, type=kind, base_job_template=_template(kind))
        created = await client.create_work_pool(pool)
        environment = job_environment(created, {"I2V_BUCKET": "photos", "APIXO_API_KEY": "key"})
        for deployment in load_deployments(config, environment):
            fields = deployment.fields | {"work_pool_name": name, "work_queue_name": "default"}
            await set_up_deployment(client, deployment._replace(name=f"{deployment.name}-{kind}", fields=fields))
        found = [each for each in await client.read_deployments() if each.work_pool_name == name]
        await client.delete_work_pool(name)
    assert len(found) >= 6
    for each in found:
        variables = each.job_variables
        assert (variables["image"], variables["env"]["I2V_BUCKET"], variables["env"][HEARTBEAT]) == (
            IMAGE,
            "photos",
            "60",
        )
        assert "APIXO_API_KEY" not in variables["env"]


def _flow_run() -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="tom", state=State(type=StateType.PENDING))


VALUES = {"image": IMAGE, "env": {"I2V_BUCKET": "photos", HEARTBEAT: "60"}}


@with_tools
async def test_ecs_accepts_what_the_worker_sends(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's worker makes a task of the template that ECS' API accepts, with settings and secrets."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    configuration: Any = await ECSJobConfiguration.from_template_and_values(_template("ecs"), VALUES | ECS_VALUES)
    configuration.prepare_for_flow_run(_flow_run())
    worker = ECSWorker(work_pool_name=POOL)
    task = worker._prepare_task_definition(configuration, "eu-central-1", _flow_run())  # noqa: SLF001 - what it registers
    monkeypatch.setattr(worker, "_load_network_configuration", lambda *_: {})  # it asks EC2 for the VPC
    request = worker._prepare_task_run_request(configuration, task, "arn:aws:ecs:::task-definition/i2v:1", True)  # noqa: SLF001 - as above

    model: Any = Session().get_service_model("ecs")
    for operation, sent in {"RegisterTaskDefinition": task, "RunTask": request}.items():
        report = ParamValidator().validate(sent, model.operation_model(operation).input_shape)
        assert report.generate_report() == ""
    (container,) = task["containerDefinitions"]
    assert [each["name"] for each in container["secrets"]] == ["APIXO_API_KEY", "I2V_CALLBACK_SECRET"]
    assert container["secrets"][0]["valueFrom"] == f"{SECRET_ARN}:APIXO_API_KEY::"
    (override,) = request["overrides"]["containerOverrides"]
    environment = {each["name"]: each["value"] for each in override["environment"]}
    assert (environment["I2V_BUCKET"], environment["MALLOC_ARENA_MAX"]) == ("photos", "1")
    assert request["overrides"]["taskRoleArn"] == ECS_VALUES["task_role_arn"]


@with_tools
async def test_kubernetes_accepts_what_the_worker_sends(prefect_server: PrefectServer) -> None:
    """Prefect's worker makes a job of the template that is valid by the published schema, with settings and secret."""
    worker = importlib.import_module("prefect_kubernetes.worker")
    configuration = await worker.KubernetesWorkerJobConfiguration.from_template_and_values(
        _template("kubernetes"), VALUES
    )
    configuration.prepare_for_flow_run(_flow_run())
    manifest = configuration.job_manifest

    pod = manifest["spec"]["template"]["spec"]
    assert (pod.pop("parallelism"), pod.pop("completions")) == (
        1,
        1,
    )  # Prefect demands them here; Kubernetes ignores them
    importlib.import_module("kubernetes_validate").validate(manifest, "1.37", strict=True)
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    expected = {"I2V_BUCKET": "photos", "HOME": "/tmp", HEARTBEAT: "60"}  # noqa: S108 - in the container
    assert expected.items() <= environment.items()
    assert container["envFrom"] == [{"secretRef": {"name": "i2v"}}]
    assert (container["image"], pod["serviceAccountName"], manifest["metadata"]["namespace"]) == (
        IMAGE,
        "i2v-run",
        "i2v",
    )
