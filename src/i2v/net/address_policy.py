"""Which addresses may be fetched: public ones over https, and the private hosts in the settings.

Everything here is pure except the DNS lookup. `i2v.net.fetcher` makes the requests.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

from i2v.errors import FetchError
from i2v.settings_types import is_listed
from i2v.urls import redact_url

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Takes a host and a port, returns IP addresses."""

MAX_ADDRESSES = 8
PROXIED_RESOLVE_SECONDS = 5.0
"""A closed network may have no DNS for outside names, and its lookups end late."""
_DISPLAY_CHARS = 300
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(net)
    # `is_global` accepts these in some Python versions: protocol assignments, 6to4, documentation
    for net in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)


def display_url(url: str) -> str:
    """Return the URL for a message: redacted, printable, at most 300 characters."""
    return "".join(char if char.isprintable() else "�" for char in redact_url(url))[:_DISPLAY_CHARS]


def is_public(address: str) -> bool:
    """Return whether an IP address, or the IPv4 address embedded in it, is on the public internet."""
    try:
        parsed = _unwrapped(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed not in _PUBLIC_V6:
        return False
    return (
        parsed.is_global
        and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)
        and not any(parsed in net for net in _NOT_PUBLIC if net.version == parsed.version)
    )


def _unwrapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address in an IPv6 address if it has one, else the address."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    return parsed.ipv4_mapped or (ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _NAT64 else parsed)


async def resolve_host(host: str, port: int) -> list[str]:
    """Return all addresses of a host from the system's resolver; raise `OSError` if there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Trust(NamedTuple):
    """How a host is reached and who named it."""

    proxied: bool = False
    """A proxy connects to it, and may be the only one to resolve it."""
    redirected: bool = False
    """Another server named it, so no message may suggest allowing it."""


DIRECT = Trust()


class AddressPolicy:
    """Decides which addresses may be connected to.

    `private_hosts`, each `host` or `host:port`, may have private addresses and use plain http.
    """

    def __init__(self, private_hosts: Collection[str], resolve: Resolver = resolve_host) -> None:
        self._private = frozenset(host.lower() for host in private_hosts)
        self._resolve = resolve

    def is_private_host(self, host: str, port: int) -> bool:
        """Return whether the settings list this host."""
        return is_listed(self._private, host, port)

    async def addresses(self, scheme: str, host: str, port: int, *, name: str, trust: Trust = DIRECT) -> list[str]:
        """Return the allowed addresses. Connect to these; a second lookup could return others.

        `host` is ASCII, in lower case and without brackets; `name` is the URL in error messages. A host that only a
        proxy can resolve has no addresses. Raise `FetchError` if the address is not allowed (`forbidden`) or the host
        does not resolve.
        """
        if scheme not in {"http", "https"} or not host:
            raise FetchError(f"{name} is not a web address", "Use a URL such as https://host/path", 0, True)
        private = self.is_private_host(host, port)
        hint = f"To allow this host, set I2V_PRIVATE_HOSTS={f'[{host}]' if ':' in host else host}:{port}"
        if trust.redirected:
            hint = "Another server redirects there: check the URL that you gave"
        if scheme != "https" and not private:
            raise FetchError(f"{name} is not allowed: it does not use https", hint, 0, True)
        found = await self._all_addresses(host, port, PROXIED_RESOLVE_SECONDS if trust.proxied else None)
        if not found and not trust.proxied:
            raise FetchError(f"{name} could not be fetched: the host does not resolve", "Check the URL and the network")
        blocked = [] if private else [address for address in found if not is_public(address)]
        if blocked:
            message = f"{name} is not allowed: the host resolves to {blocked[0]}, which is not a public address"
            if any(_unwrapped(address).is_link_local for address in blocked):  # where clouds serve credentials
                hint = "Check the URL"
            raise FetchError(message, hint, 0, True)
        return found[:MAX_ADDRESSES]

    async def _all_addresses(self, host: str, port: int, seconds: float | None) -> list[str]:
        try:
            async with asyncio.timeout(seconds):
                return list(await self._resolve(host, port))
        except (OSError, UnicodeError):
            return []
