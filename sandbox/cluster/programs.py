"""PostgreSQL, Redis and nginx from Debian's packages, each with its own folder and port instead of a container."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox.cluster.compose import FOLDER, HOST, Addresses, Service

PACKAGES = {"postgres": "postgresql", "redis-server": "redis-server", "nginx": "nginx"}
"""Program to package."""
BALANCER = FOLDER / "cluster.nginx.conf"
NGINX_CONF = """
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {folder}/balancer.conf;
}}
"""


def find_program(name: str) -> str:
    """Return a program's path. Raise `RuntimeError` with the package to install."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which(name, path=path):
        return found
    package = PACKAGES.get(name, name)
    raise RuntimeError(f"{name} is not installed. On Debian and Ubuntu: sudo apt install {package}")


def prepare(
    service: Service, folder: Path, addresses: Addresses, names: Mapping[str, Sequence[str]], password: str
) -> None:
    """Create the data that a container's image would create at its first start; `names` are those of replicas."""
    match service.command[0]:
        case "postgres":
            _create_database(service, folder, password)
        case "nginx":
            (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder))
            text = addresses.translate(balancer(names), owner=service.name, local=service.name)
            for port in service.ports:
                text = text.replace(f"listen {port};", f"listen {HOST}:{addresses.port(service.name, port)};")
            (folder / "balancer.conf").write_text(text)


def balancer(names: Mapping[str, Sequence[str]]) -> str:
    """Return the load balancer's configuration with a line for each replica, as nginx resolves their common name."""
    lines = []
    for line in BALANCER.read_text().splitlines(keepends=True):
        found = re.match(r"\s+server ([\w-]+):", line)
        lines += [line.replace(found[1], name, 1) for name in names[found[1]]] if found else [line]
    return "".join(lines)


def child_command(service: Service, folder: Path, addresses: Addresses, command: Sequence[str]) -> tuple[str, ...]:
    """Return what `ChildProcess` starts: a module, or a program with its own port and folder."""
    name, *arguments = command
    match name:
        case "postgres":
            own = ["-D", str(folder / "data"), "-h", HOST, "-p", _port(service, addresses)]
            own += ["-c", "unix_socket_directories="]
            return ("sandbox.cluster.run_program", *_not_root(), find_program(name), *own, *arguments)
        case "redis-server":
            own = ["--bind", HOST, "--port", _port(service, addresses), "--dir", str(folder)]
            return ("sandbox.cluster.run_program", find_program(name), *own, *arguments)
        case "nginx":
            own = ["-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]
            return ("sandbox.cluster.run_program", find_program(name), *own, *arguments)
        case "python":
            return tuple(arguments[1:])  # after -m
        case module:
            return (module, *arguments)


def _port(service: Service, addresses: Addresses) -> str:
    return str(addresses.port(service.name, service.ports[0]))


def _create_database(service: Service, folder: Path, password: str) -> None:
    user, database = service.environment["POSTGRES_USER"], service.environment["POSTGRES_DB"]
    data, secret = folder / "data", folder / "password"
    secret.write_text(password)
    secret.chmod(0o600)
    _run("initdb", "-D", str(data), "-U", user, f"--pwfile={secret}", "--auth=scram-sha-256", "-E", "UTF8", "--no-sync")
    _run("postgres", "--single", "-D", str(data), "postgres", text=f"CREATE DATABASE {database}\n")


def _run(name: str, *arguments: str, text: str = "") -> None:
    command = [*_not_root(), find_program(name), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")


def _not_root() -> list[str]:
    """PostgreSQL refuses to run as root, so root runs it in a user namespace where it has another id."""
    if os.geteuid():
        return []
    prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        raise RuntimeError(
            "PostgreSQL does not run as root, and this machine allows no user namespaces: use another user"
        )
    return prefix
