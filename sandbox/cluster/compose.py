"""Read `deployments/compose.yaml`, and translate its names and ports to loopback addresses of this machine.

Only what the file uses is understood. What is left out concerns containers alone: images, networks, memory limits.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import yaml

from sandbox.child_process import ROOT

FOLDER = ROOT / "deployments"
FILE = FOLDER / "compose.yaml"
HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below those that Linux gives to connections, one of which could take a port before its service does."""
USER_SETTINGS = "i2v.env"
"""The env file that users write; here the sandbox or `ENV=` takes its place."""


@dataclass(frozen=True)
class Service:
    """One service of the file, with the values that matter without containers."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: frozenset[str]
    ports: tuple[int, ...]
    dependencies: Mapping[str, str]
    """Service name to condition: service_started, service_healthy or service_completed_successfully."""
    health: tuple[str, ...]
    """The command of the health check; empty if there is none."""
    replicas: int
    is_job: bool
    """Whether it runs once instead of being restarted."""
    needs_user_settings: bool


def read_services() -> list[Service]:
    """Return the services without a profile, each after those that it depends on."""
    services = _read_file()
    return _in_start_order([_service(name, fields) for name, fields in services.items() if "profiles" not in fields])


def read_service(name: str) -> Service:
    """Return one service, also one with a profile."""
    return _service(name, _read_file()[name])


def read_env_file(text: str) -> dict[str, str]:
    """Return the variables of NAME=value lines; see tests/unit/deployments for what our files may contain."""
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def _read_file() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return services


def _service(name: str, fields: Mapping[str, Any]) -> Service:
    env_files = fields.get("env_file", [])
    environment: dict[str, str] = {}
    for file in env_files:
        if file != USER_SETTINGS:
            environment |= read_env_file((FOLDER / file).read_text())
    return Service(
        name=name,
        command=tuple(fields["command"]),
        environment=environment | fields.get("environment", {}),
        secrets=frozenset(fields.get("secrets", ())),
        ports=_ports(fields),
        dependencies={each: options["condition"] for each, options in fields.get("depends_on", {}).items()},
        health=tuple(fields.get("healthcheck", {}).get("test", ())[1:]),
        replicas=fields.get("deploy", {}).get("replicas", 1),
        is_job=fields["restart"] == "no",
        needs_user_settings=USER_SETTINGS in env_files,
    )


def _ports(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ports inside the container, published or not."""
    return tuple(int(port.rpartition(":")[2]) for port in [*fields.get("expose", ()), *fields.get("ports", ())])


def _in_start_order(services: list[Service]) -> list[Service]:
    ordered: list[Service] = []
    while waiting := [each for each in services if each not in ordered]:
        names = {each.name for each in ordered}
        ready = [each for each in waiting if names.issuperset(each.dependencies)]
        if not ready:
            raise ValueError(f"services that wait for each other in {FILE.name}: {[each.name for each in waiting]}")
        ordered += ready
    return ordered


class Addresses:
    """A free loopback port for each port of a service; the n-th replica of a service is named `service-n` here."""

    def __init__(self, ports: Mapping[str, Iterable[int]]) -> None:
        wanted = [(name, port) for name, own in ports.items() for port in own]
        self._free = dict(zip(wanted, _free_ports(len(wanted)), strict=True))

    def port(self, name: str, port: int) -> int:
        """Return the port on this machine."""
        return self._free[name, port]

    def translate(self, text: str, *, owner: str, local: str) -> str:
        """Return a value of the service `owner` with the addresses of this machine.

        `service:port` becomes that service's address, and `127.0.0.1:port` or `localhost:port` that of `local`: a
        health check means its own container, a setting the published port. A port of the owner alone becomes its own.
        """
        if text.isdigit():
            return str(self._free.get((owner, int(text)), text))
        for (name, port), free in self._free.items():
            hosts = rf"{name}|{re.escape(HOST)}|localhost" if name == local else name
            text = re.sub(rf"(?<![\w.-])(?:{hosts}):{port}(?!\d)", f"{HOST}:{free}", text)
        return text.replace("0.0.0.0", HOST)  # noqa: S104 - what containers bind to


def _free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    found: list[int] = []
    with ExitStack() as sockets:
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            with suppress(OSError):
                sockets.enter_context(socket.create_server((HOST, port)))
                found.append(port)
    return found
