from __future__ import annotations

import pytest

from i2v.errors import FetchError
from i2v.net.address_policy import AddressPolicy, bare_url, is_public


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 — an address to refuse
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:0:127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "",
        "localhost",
        "127.1",
    ],
)
def test_no_address_within_is_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast, reserved, unspecified, wrapped, tunnelled: not public."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Ordinary addresses are, also where an IPv6-only network wraps them."""
    assert is_public(address)


async def _addresses(reach: AddressPolicy, scheme: str, host: str, port: int) -> list[str]:
    return await reach.addresses(scheme, host, port, name=f"{scheme}://{host}/v.mp4")


def _reach(*addresses: str, private: str = "") -> AddressPolicy:
    async def resolve(_host: str, _port: int) -> list[str]:
        return list(addresses)

    return AddressPolicy(private.split(",") if private else [], resolve)


async def test_a_public_host_is_reached_at_what_was_looked_up() -> None:
    """All addresses of a public name are given, and no name any more."""
    reach = _reach("8.8.8.8", "2606:4700::1111")
    assert await _addresses(reach, "https", "files.example", 443) == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("8.8.8.8", "10.0.0.1"), ("8.8.8.8", "::1")])
async def test_one_private_address_among_many_forbids_the_host(addresses: tuple[str, ...]) -> None:
    """A name that leads inside, even with one address of several, is forbidden and says how to allow it."""
    with pytest.raises(FetchError, match=r"I2V_PRIVATE_HOSTS=files\.example:443") as caught:
        await _addresses(_reach(*addresses), "https", "files.example", 443)
    assert caught.value.forbidden


async def test_a_host_without_tls_is_forbidden_before_it_is_looked_up() -> None:
    """Plain http to a public host is forbidden, and its name is not even asked for."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"]

    with pytest.raises(FetchError, match="not https") as caught:
        await _addresses(AddressPolicy([], resolve), "http", "files.example", 80)
    assert caught.value.forbidden
    assert asked == []


@pytest.mark.parametrize(
    ("private", "host", "port", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1", 9000, True),
        ("127.0.0.1:9000", "127.0.0.1", 9000, True),
        ("127.0.0.1:9000", "127.0.0.1", 9001, False),
        ("MinIO.local:80", "minio.local", 80, True),
        ("[::1]:9000", "::1", 9000, True),
        ("[::1]", "::1", 9000, True),
        ("::1", "::1", 9000, True),
        ("minio.local", "evil-minio.local", 80, False),
        ("minio.local", "minio.local.evil.example", 80, False),
        ("", "127.0.0.1", 9000, False),
    ],
)
async def test_only_the_hosts_that_settings_name_may_be_private(
    private: str, host: str, port: int, allowed: bool
) -> None:
    """A private host is allowed by its exact name, with any port or the one that is named."""
    reach = _reach("127.0.0.1", private=private)
    if allowed:
        assert await _addresses(reach, "http", host, port) == ["127.0.0.1"]
    else:
        with pytest.raises(FetchError):
            await _addresses(reach, "https", host, port)


@pytest.mark.parametrize("scheme", ["ftp", "file", "", "gopher"])
async def test_only_the_web_is_fetched(scheme: str) -> None:
    """Another scheme is forbidden, also for a private host."""
    with pytest.raises(FetchError) as caught:
        await _addresses(_reach("127.0.0.1", private="host"), scheme, "host", 1)
    assert caught.value.forbidden


async def test_a_name_that_is_not_known_may_be_known_later() -> None:
    """No address is an error, but nothing forbidden."""
    with pytest.raises(FetchError, match="host is not known") as caught:
        await _addresses(_reach(), "https", "files.example", 443)
    assert not caught.value.forbidden


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://b.example/a/b.mp4?X-Amz-Signature=1#f", "https://b.example/a/b.mp4"),
        ("https://u:p@b.example/a?b", "https://b.example/a"),
        ("https://b.example:8443/a@b", "https://b.example:8443/a@b"),
        ("https://b.example#?x", "https://b.example"),
        ("u:p@b.example/x", "b.example/x"),
        ("https://b.example/\x1b[31m", "https://b.example/�[31m"),
        ("https://b.example/" + "a" * 999, "https://b.example/" + "a" * 282),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """No query, fragment or password, no control characters, at most 300 characters."""
    assert bare_url(url) == shown
