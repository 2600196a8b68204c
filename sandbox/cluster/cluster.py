"""`Cluster` runs the services of compose.yaml as processes, in their order, and restarts each that ends."""

import os
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from sandbox.child_process import ChildProcess, clean_environment
from sandbox.cluster.compose import HOST, Addresses, Service, read_services
from sandbox.cluster.programs import PACKAGES, child_command, find_program, prepare

START_SECONDS = 300
POLL_SECONDS = 0.2
RESTART_SECONDS = 1
"""The pause before a restart, so that a process that cannot start does not use a whole core."""


@dataclass(frozen=True)
class Description:
    """A service's command and whole environment, with the addresses of this machine."""

    command: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class Part:
    """One process: a service, or one of its replicas."""

    name: str
    service: Service
    process: ChildProcess


class Cluster:
    """`with Cluster(folder, settings) as cluster:` starts everything; `settings` are those of workers and doors.

    `replicas` is how many processes of a service to start, 0 for none, as in `docker compose up --scale SERVICE=N`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *,
        replicas: Mapping[str, int] | None = None,
        on_progress: Callable[[str], object] = str,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._on_progress = on_progress
        self._services = read_services()
        self._replicas = {each.name: each.replicas for each in self._services} | dict(replicas or {})
        if unknown := self._replicas.keys() - {each.name for each in self._services}:
            raise ValueError(f"no such services: {', '.join(sorted(unknown))}")
        self._names = {each.name: _names(each, self._replicas[each.name]) for each in self._services}
        names = ((name, service.ports) for service in self._services for name in self._names[service.name])
        self._addresses = Addresses(dict(names))
        self._secrets = dict(settings) | {"PGPASSWORD": secrets.token_hex(16)}
        self.parts: dict[str, Part] = {}
        self.starts: Counter[str] = Counter()
        """How often each process has been started."""
        self._stopped_parts: set[str] = set()
        self._stopped = threading.Event()
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        started = {each.command[0] for each in self._services if self._replicas[each.name]}
        for program in started & PACKAGES.keys():
            find_program(program)
        try:
            for service in self._services:
                self._start_service(service)
            threading.Thread(target=self._restart_ended, daemon=True).start()
            self.wait_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop clients before servers, each group at once."""
        with self._changing:
            self._stopped.set()
        for service in reversed(self._services):
            group = [part for part in self.parts.values() if part.service is service]
            for part in group:
                part.process.request_stop()
            for part in group:
                part.process.stop()

    @property
    def user_environment(self) -> dict[str, str]:
        """The variables that a user sets to use the same services."""
        proxies = {"no_proxy": ",".join(filter(None, [self._settings.get("no_proxy"), HOST]))}
        return (
            dict(self._settings) | proxies | {"PREFECT_API_URL": f"{self.url('nginx', 4200)}/api", "DO_NOT_TRACK": "1"}
        )

    def url(self, name: str, port: int) -> str:
        """Return the address of a port of a service."""
        return f"http://{HOST}:{self._addresses.port(name, port)}"

    def kill(self, name: str) -> None:
        """Kill a process and its children as `kill -9` does. It is started again."""
        with self._changing:
            self.parts[name].process.kill()

    def stop(self, *services: str) -> None:
        """Stop all processes of these services until `start`, as `docker compose stop` does."""
        with self._changing:
            group = [part for part in self.parts.values() if part.service.name in services]
            self._stopped_parts.update(part.name for part in group)
            for part in group:
                part.process.request_stop()
            for part in group:
                part.process.stop()

    def start(self) -> None:
        """Start what is stopped, in the order of the services, and wait until it is healthy."""
        for name in [each for each in self.parts if each in self._stopped_parts]:
            with self._changing:
                self._stopped_parts.remove(name)
                self._start(name)
            self.wait_healthy(name)

    def wait_healthy(self, *names: str) -> None:
        """Wait until these processes are healthy, all by default. Raise `RuntimeError` with the last lines of one."""
        deadline = time.monotonic() + START_SECONDS
        for name in names or self.parts:
            while not self._is_healthy(part := self.parts[name]):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name} is not healthy. Its last lines:\n{part.process.last_lines()}")
                time.sleep(POLL_SECONDS)

    def _start_service(self, service: Service) -> None:
        healthy = {name for name, condition in service.dependencies.items() if condition == "service_healthy"}
        self.wait_healthy(*(part.name for part in self.parts.values() if part.service.name in healthy))
        self._on_progress(f"Starting {service.name}")
        for name in self._names[service.name]:
            folder = self._folder / name
            folder.mkdir(parents=True)
            prepare(service, folder, self._addresses, self._names, self._secrets["PGPASSWORD"])
            described = self.describe(service, name)
            child = child_command(service, folder, self._addresses, described.command)
            process = ChildProcess(*child, env=described.environment, log=self._folder / f"{name}.log")
            if service.is_job:
                self._run_job(name, process)
            else:
                self.parts[name] = Part(name, service, process)
                self._start(name)

    def describe(self, service: Service, name: str) -> Description:
        """Return what a service, or its replica of this name, runs here."""
        own = {
            variable: self._addresses.translate(value, owner=name, local="nginx")
            for variable, value in service.environment.items()
        }
        settings = self._shared_settings if service.needs_user_settings else {}
        secret = {each: self._secrets[each] for each in service.secrets if each in self._secrets}
        home = {"PREFECT_HOME": str(self._folder / name)}
        return Description(self._translate(service.command, name), clean_environment() | home | settings | own | secret)

    def _translate(self, words: Iterable[str], name: str) -> tuple[str, ...]:
        return tuple(self._addresses.translate(word, owner=name, local=name) for word in words)

    @property
    def _shared_settings(self) -> dict[str, str]:
        """The settings of i2v.env, with this machine exempt from proxies and without those that are secret files."""
        all_secrets = {each for service in self._services for each in service.secrets}
        public = {name: value for name, value in self._settings.items() if name not in all_secrets}
        exempt = [each for each in self._settings.get("no_proxy", "").split(",") if each not in {"", HOST}]
        return public | {"no_proxy": ",".join([HOST, *exempt])}

    def _start(self, name: str) -> None:
        self.starts[name] += 1
        self.parts[name].process.start()

    def _run_job(self, name: str, process: ChildProcess) -> None:
        with process:
            deadline = time.monotonic() + START_SECONDS
            while process.is_running and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if code := process.stop():
                raise RuntimeError(f"{name} ended with exit code {code}. Its last lines:\n{process.last_lines()}")

    def _restart_ended(self) -> None:
        """Start each process again that has ended, as `restart: unless-stopped` does."""
        while not self._stopped.wait(RESTART_SECONDS):
            for name, part in self.parts.items():
                with self._changing:
                    is_wanted = name not in self._stopped_parts and not self._stopped.is_set()
                    if is_wanted and not part.process.is_running:
                        self._on_progress(f"{name} has ended; starting it again")
                        part.process.stop()
                        self._start(name)

    def _is_healthy(self, part: Part) -> bool:
        if not part.service.health or not part.process.is_running:
            return part.process.is_running
        program, *arguments = self._translate(part.service.health, part.name)
        if arguments[-1].startswith("http"):
            with suppress(httpx.TransportError):
                return httpx.get(arguments[-1], trust_env=False, timeout=30).is_success
            return False
        command = [find_program(program), *arguments]
        return not subprocess.run(command, capture_output=True, env=dict(os.environ), check=False).returncode


def _names(service: Service, count: int) -> list[str]:
    return [service.name] if count == 1 else [f"{service.name}-{number + 1}" for number in range(count)]
