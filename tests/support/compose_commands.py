"""The `docker compose` commands of the pages, on the processes of `make cluster` instead of containers."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.cluster.cluster import Cluster
from sandbox.cluster.compose import HOST, read_service
from sandbox.cluster.programs import find_program
from tests.support.paths import ROOT

BIN = Path(sys.executable).parent
SECONDS = 600


@dataclass(frozen=True)
class ComposeCommands:
    """A user's shell: `folder` is where its redirections go."""

    cluster: Cluster
    folder: Path

    def type(self, line: str) -> str:
        """Run a line and return its output. Fail if it fails, or if it means nothing to Compose."""
        words = shlex.split(line)
        command = [word for word in words if word[0] not in "<>"]
        inputs = [self.folder / word[1:] for word in words if word[0] == "<"]
        outputs = [self.folder / word[1:] for word in words if word[0] == ">"]
        match command[2:]:
            case ["up", *options]:
                assert set(options) <= {"--build", "--detach", "--scale", "worker=4"}, line
                self.cluster.start()
            case ["stop", *services]:
                self.cluster.stop(*services)
            case ["run", "--rm", name, program, *arguments]:
                return self._run(name, [str(BIN / program), *arguments], inputs, outputs)
            case ["exec", "-T", name, program, *arguments]:
                return self._run(name, [find_program(program), *arguments], inputs, outputs)
            case ["build"] | ["ps", "--all"] | ["logs", "--tail", "50", "SERVICE"]:
                pass  # of containers alone
            case _:
                raise AssertionError(f"not a command of Compose: {line}")
        return ""

    def _run(self, name: str, command: Sequence[str], inputs: list[Path], outputs: list[Path]) -> str:
        service = read_service(name)
        environment = self.cluster.describe(service, name).environment
        if service.ports:  # commands inside the container of PostgreSQL use its socket
            port = self.cluster.url(name, service.ports[0]).rpartition(":")[2]
            environment |= {"PGHOST": HOST, "PGPORT": port}
        done = subprocess.run(  # noqa: S603 - the project's pages
            command,
            env=environment | {"COLUMNS": "200"},
            cwd=ROOT,
            input=inputs[0].read_bytes() if inputs else None,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout.decode()}{done.stderr.decode()}"
        for output in outputs:
            output.write_bytes(done.stdout)
        return done.stdout.decode(errors="replace")
