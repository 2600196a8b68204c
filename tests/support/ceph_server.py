"""Ceph's S3 gateway on this machine: `CephServer`, a monitor, one object store in memory, and the gateway.

Its data and logs are in a temporary folder. `missing()` says what to install.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

from sandbox.sandbox import ACCESS_KEY, SECRET_KEY
from sandbox.server import Server, listen, wait_until

PROGRAMS = ("setpriv", "ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = "ceph-common ceph-mon ceph-osd radosgw"
START_SECONDS = 90
CONFIG = """[global]
fsid = {fsid}
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.sock
log file = {folder}/$name.log
pid file = {folder}/$name.pid
mon initial members = a
mon host = [v2:{monitor}]
mon data = {folder}/mon
mon allow pool size one = true
mon data avail crit = 1
auth allow insecure global id reclaim = false
osd data = {folder}/osd
osd objectstore = memstore
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
memstore device bytes = 1073741824
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
rgw data = {folder}/rgw
rgw enable apis = s3
rgw thread pool size = 64
"""


def missing() -> str:
    """Return why Ceph cannot run here; empty if it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(absent)} not found; on Debian: apt install {PACKAGES}" if absent else ""


class CephServer(Server):
    """A running gateway with one user, whose keys are those of the sandbox."""

    def start(self) -> Self:
        """Start all three processes and wait until the gateway answers."""
        with ExitStack() as stack, listen(self.host, 0) as gateway, listen(self.host, 0) as monitor:
            self.port, mon = gateway.getsockname()[1], f"{self.host}:{monitor.getsockname()[1]}"
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-ceph-")))
            self._stack = stack.pop_all()
        try:
            self._start(str(uuid.uuid4()), mon)
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, fsid: str, monitor: str) -> None:
        folder = self._folder
        (folder / "ceph.conf").write_text(CONFIG.format(fsid=fsid, folder=folder, monitor=monitor))
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        for entity, rights in (("mon.", "mon"), ("client.admin", "mon osd mgr"), ("osd.0", "mon osd")):
            caps = [word for right in rights.split() for word in ("--cap", right, "allow *")]
            create = [] if (folder / "keyring").exists() else ["-C"]
            self._run("ceph-authtool", *create, f"{folder}/keyring", "--gen-key", "-n", entity, *caps)
        self._run("monmaptool", "--create", "--addv", "a", f"[v2:{monitor}]", "--fsid", fsid, f"{folder}/monmap")
        keyring, monmap = ("--keyring", f"{folder}/keyring"), ("--monmap", f"{folder}/monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", *monmap, *keyring)
        self._spawn("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-i", "0")
        self._spawn("radosgw", "-n", "client.admin", "--rgw-frontends", f"beast endpoint={self.address}")
        wait_until(self._answers, START_SECONDS)
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        self._run("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", *keys)

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-c", f"{self._folder}/ceph.conf", *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        tools = {"monmaptool", "ceph-authtool"}
        command = [program, *arguments] if program in tools else self._command(program, *arguments)
        done = subprocess.run(  # noqa: S603 - Ceph's programs
            command, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:]}")

    def _spawn(self, program: str, *arguments: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", *self._command(program, *arguments), "-f", "--no-mon-config"]
        child = subprocess.Popen(  # noqa: S603 - as above
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._stack.callback(child.wait)
        self._stack.callback(child.kill)

    def _answers(self) -> bool:
        time.sleep(0.2)
        try:
            return httpx.get(self.url, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Kill the processes and delete their data."""
        self._stack.close()
