"""Which addresses may be fetched: public ones by https, and the private hosts that the settings name.

Pure but for the look-up of a name. The fetching itself is in `i2v.net.fetcher`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence

from i2v.errors import FetchError

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Takes host and port, gives IP addresses."""

MOST_ADDRESSES = 8
_SHOWN_CHARS = 300
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(net)
    # what `is_global` of some Python versions lets through: protocol assignments, 6to4, documentation
    for net in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)


def bare_url(url: str) -> str:
    """The URL as it may be shown: without query, fragment and password, which can be secret."""
    text = re.split(r"[?#]", url, maxsplit=1)[0]
    text = re.sub(r"^([^/]*//)?[^/]*@", r"\1", text)
    return "".join(char if char.isprintable() else "�" for char in text)[:_SHOWN_CHARS]


def is_public(address: str) -> bool:
    """Whether an IP address lies in the public internet, also one that is wrapped in an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or (ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if found not in _PUBLIC_V6:
            return False
    return (
        found.is_global
        and not (found.is_multicast or found.is_reserved or found.is_unspecified)
        and not any(found in net for net in _NOT_PUBLIC if net.version == found.version)
    )


async def look_up(host: str, port: int) -> list[str]:
    """All addresses of a host, by the system's resolver.

    Raises:
        OSError: the name is not known.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class AddressPolicy:
    """Which hosts may be reached.

    Args:
        private_hosts: `host` or `host:port` that may be private and without TLS.
        resolve: looks a name up.
    """

    def __init__(self, private_hosts: Collection[str], resolve: Resolver = look_up) -> None:
        self._private = frozenset(host.lower() for host in private_hosts)
        self._resolve = resolve

    def is_private_host(self, host: str, port: int) -> bool:
        """Whether settings name this host; an IPv6 address with or without brackets."""
        names = {host, f"[{host}]"} if ":" in host else {host}
        return any(name in self._private or f"{name}:{port}" in self._private for name in names)

    async def addresses(self, scheme: str, host: str, port: int, *, name: str) -> list[str]:
        """The addresses that may be connected to, and no others: the host is not to be looked up again.

        Args:
            scheme: of the URL.
            host: in ASCII, lower case, without brackets.
            port: where it is to be reached.
            name: the URL as errors show it.

        Raises:
            FetchError: not allowed (`forbidden`), or the host is not known.
        """
        if scheme not in {"http", "https"} or not host:
            raise FetchError(f"{name} is no web address", "It looks like https://host/path", 0, True)
        private = self.is_private_host(host, port)
        hint = f"If it is yours and meant, allow it: I2V_PRIVATE_HOSTS={f'[{host}]' if ':' in host else host}:{port}"
        if scheme != "https" and not private:
            raise FetchError(f"{name} may not be fetched: it is not https", hint, 0, True)
        found = await self._all_addresses(host, port)
        if not found:
            raise FetchError(f"{name} could not be fetched: its host is not known", "Check the address and the network")
        hidden = [] if private else [address for address in found if not is_public(address)]
        if hidden:
            why = f"its host is at {hidden[0]}, which is no public address"
            raise FetchError(f"{name} may not be fetched: {why}", hint, 0, True)
        return found[:MOST_ADDRESSES]

    async def _all_addresses(self, host: str, port: int) -> list[str]:
        try:
            return list(await self._resolve(host, port))
        except (OSError, UnicodeError):
            return []
