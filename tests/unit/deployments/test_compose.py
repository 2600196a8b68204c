"""deployments/compose.yaml: valid, complete, and the one description of what `make cluster` starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.cluster.cluster import Cluster
from sandbox.cluster.compose import FILE, FOLDER, Addresses, read_env_file, read_services
from sandbox.cluster.programs import balancer
from tests.support.paths import ROOT

CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES = {service.name: service for service in read_services()}
UNDERSTOOD = "command depends_on deploy env_file environment expose healthcheck ports profiles restart secrets"
CONTAINERS_ALONE = "build cap_drop image init mem_limit networks security_opt stop_grace_period stop_signal volumes"
"""What has no meaning for a plain process, or is done by `sandbox.cluster.programs`."""
BALANCER = (FOLDER / "cluster.nginx.conf").read_text()
ADDRESS = re.compile(r"(?<![\w.-])([a-z][a-z0-9-]*):(\d{2,5})\b")


def test_it_is_valid_compose() -> None:
    """The file follows the published Compose schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the tool of the field

    assert done.returncode == 0, done.stdout


def test_it_has_every_part() -> None:
    """There are two API servers, two doors, several workers, one of each other part, and memory limits for all."""
    assert " ".join(sorted(SERVICES)) == "api-1 api-2 deploy door-1 door-2 migrate nginx postgres redis services worker"
    assert SERVICES["worker"].replicas == 2
    assert [name for name, fields in CONFIG["services"].items() if "mem_limit" not in fields] == []


def test_cluster_understands_every_field() -> None:
    """`make cluster` reads every field that does not concern containers alone."""
    used = {field for fields in CONFIG["services"].values() for field in fields}

    assert used - {*UNDERSTOOD.split(), *CONTAINERS_ALONE.split()} == set()
    assert set(CONFIG["services"]) - set(SERVICES) == {"i2v"}, "the service for commands"


def test_cluster_starts_what_compose_says(tmp_path: Path) -> None:
    """Each process of `make cluster` has the command and variables of its service; only addresses differ."""
    cluster = Cluster(tmp_path, {"I2V_BUCKET": "photos", "APIXO_API_KEY": "secret"})
    for name, service in SERVICES.items():
        started = cluster.describe(service, name)
        changed = {
            variable: (value, started.environment[variable])
            for variable, value in service.environment.items()
            if started.environment[variable] != value
        }
        assert [values for values in changed.values() if not _is_address(values[0])] == []
        assert started.environment.get("I2V_BUCKET") == ("photos" if service.needs_user_settings else None)
        assert ("APIXO_API_KEY" in started.environment) is ("APIXO_API_KEY" in service.secrets)
        assert " ".join(started.command) == " ".join(service.command), "no command contains an address"


def _is_address(value: str) -> bool:
    return bool(re.search(r":\d{4}\b|^\d{4}$|0\.0\.0\.0", value))


def test_every_address_is_that_of_a_service() -> None:
    """Settings and load balancer name only services that exist, with ports that these expose."""
    values = [value for service in SERVICES.values() for value in service.environment.values()]
    found = {(host, int(port)) for text in [*values, BALANCER] for host, port in ADDRESS.findall(text)}
    found -= {("localhost", 4200)}
    assert {("postgres", 5432), ("redis", 6379), ("nginx", 4200), ("api-2", 4200), ("door-2", 8410)} <= found

    assert found <= {(name, port) for name, service in SERVICES.items() for port in service.ports}


@pytest.mark.parametrize("name", ["api-1", "api-2", "services"])
def test_servers_share_postgresql_and_redis(name: str) -> None:
    """Every server process uses PostgreSQL and Redis for all that servers share, and none migrates the database."""
    environment = SERVICES[name].environment
    shared = {value for value in environment.values() if value.startswith("prefect_redis.")}

    assert environment["PREFECT_API_DATABASE_MIGRATE_ON_START"] == "false"
    assert environment["PREFECT_API_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://")
    assert environment["PREFECT_SERVER_DOCKET_URL"].startswith("redis://")
    assert shared == {f"prefect_redis.{part}" for part in ("messaging", "ordering", "lease_storage", "cleanup_queue")}
    assert environment.items() >= read_env_file((FOLDER / "server.env").read_text()).items() - {
        ("PREFECT_SERVER_API_HOST", "127.0.0.1"),
        ("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect.server.concurrency.lease_storage.filesystem"),
    }


def test_start_order_avoids_races() -> None:
    """The database is migrated before any server starts, one API server before the other, and workers after deploy."""
    assert SERVICES["api-1"].dependencies["migrate"] == "service_completed_successfully"
    assert SERVICES["api-2"].dependencies == {"api-1": "service_healthy"}
    assert SERVICES["worker"].dependencies == {"deploy": "service_completed_successfully"}
    assert [name for name, service in SERVICES.items() if service.is_job] == ["migrate", "deploy"]


def test_secrets_come_from_files() -> None:
    """Every secret is a separate file that git ignores, and no variable of the file holds one."""
    files = {options["file"] for options in CONFIG["secrets"].values()}
    used = {secret for fields in CONFIG["services"].values() for secret in fields.get("secrets", ())}

    assert used == set(CONFIG["secrets"])
    assert all(re.fullmatch(r"secrets/[A-Z0-9_]+", file) for file in files)
    assert {"deployments/secrets/", "deployments/i2v.env"} <= set((ROOT / ".gitignore").read_text().splitlines())
    assert all(file.removeprefix("secrets/") in (ROOT / "Makefile").read_text() for file in files), "make secrets"
    variables = {variable for service in SERVICES.values() for variable in service.environment}
    assert variables & set(CONFIG["secrets"]) == set()


def test_nothing_is_published_beyond_this_machine() -> None:
    """Ports are published on loopback alone, since the Prefect server has no accounts."""
    published = [port for fields in CONFIG["services"].values() for port in fields.get("ports", ())]

    assert published == ["127.0.0.1:4200:4200", "127.0.0.1:8410:8410"]


def test_the_load_balancer_knows_every_replica(tmp_path: Path) -> None:
    """A scaled service has a line per process, as nginx resolves its name; one that is left out has none."""
    names = {name: [name] for name in SERVICES} | {"api-2": ["api-2-1", "api-2-2"], "door-1": []}

    assert re.findall(r"server (\S+) ", balancer(names)) == [
        "api-1:4200",
        "api-2-1:4200",
        "api-2-2:4200",
        "door-2:8410",
    ]
    with pytest.raises(ValueError, match="no such services: api"):
        Cluster(tmp_path, {}, replicas={"api": 2})


def test_translation_changes_addresses_alone() -> None:
    """A container's name and port become a loopback port; other text, such as a URL's scheme, stays."""
    addresses = Addresses({"redis": (6379,), "nginx": (4200,), "api-1": (4200,)})
    redis, nginx, api = (addresses.port(*each) for each in (("redis", 6379), ("nginx", 4200), ("api-1", 4200)))
    cases = {
        "redis://redis:6379/1": f"redis://127.0.0.1:{redis}/1",
        "prefect_redis.messaging": "prefect_redis.messaging",
        "http://127.0.0.1:4200,http://localhost:4200": f"http://127.0.0.1:{nginx},http://127.0.0.1:{nginx}",
        "http://api-1:4200/api": f"http://127.0.0.1:{api}/api",
        "4200": str(api),
        "200": "200",
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - what containers bind to
    }

    assert {text: addresses.translate(text, owner="api-1", local="nginx") for text in cases} == cases
    own = addresses.translate("http://127.0.0.1:4200/api/ready", owner="api-1", local="api-1")
    assert own == f"http://127.0.0.1:{api}/api/ready"
