from __future__ import annotations

import asyncio

import pytest

from i2v.errors import FetchError
from i2v.net.address_policy import AddressPolicy, Trust, display_url, is_public


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
def test_internal_addresses_are_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast, reserved, unspecified and tunneled addresses are not public."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_internet_addresses_are_public(address: str) -> None:
    """Ordinary addresses are public, also when embedded in an IPv6 address."""
    assert is_public(address)


async def _addresses(policy: AddressPolicy, scheme: str, host: str, port: int) -> list[str]:
    return await policy.addresses(scheme, host, port, name=f"{scheme}://{host}/v.mp4")


def _policy(*addresses: str, private: str = "") -> AddressPolicy:
    async def resolve(_host: str, _port: int) -> list[str]:
        return list(addresses)

    return AddressPolicy(private.split(",") if private else [], resolve)


async def test_a_public_host_gives_the_addresses_of_the_lookup() -> None:
    """A public host gives all of its addresses."""
    policy = _policy("8.8.8.8", "2606:4700::1111")
    assert await _addresses(policy, "https", "files.example", 443) == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("8.8.8.8", "10.0.0.1"), ("8.8.8.8", "::1")])
async def test_one_private_address_forbids_the_host(addresses: tuple[str, ...]) -> None:
    """A host with one private address among several is forbidden, and the error says how to allow it."""
    with pytest.raises(FetchError, match=r"I2V_PRIVATE_HOSTS=files\.example:443") as caught:
        await _addresses(_policy(*addresses), "https", "files.example", 443)
    assert caught.value.forbidden


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254"]
)
async def test_no_message_suggests_to_allow_a_link_local_address(address: str) -> None:
    """At link-local addresses clouds serve credentials."""
    with pytest.raises(FetchError, match=r"not a public address\. Check the URL$"):
        await _addresses(_policy("10.0.0.1", address), "https", "files.example", 443)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_message_suggests_to_allow_the_target_of_a_redirect(scheme: str) -> None:
    """A server cannot make i2v suggest a host to the user."""
    policy = _policy("10.0.0.1")
    with pytest.raises(FetchError, match="Another server redirects there") as caught:
        await policy.addresses(scheme, "files.example", 443, name="x", trust=Trust(redirected=True))
    assert "I2V_PRIVATE_HOSTS" not in str(caught.value)


async def test_a_host_that_only_a_proxy_resolves_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy, no address and a lookup without an end are no error; one that is not public is."""
    monkeypatch.setattr("i2v.net.address_policy.PROXIED_RESOLVE_SECONDS", 0.05)

    async def hang(_host: str, _port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    for policy in (_policy(), AddressPolicy([], hang)):
        assert await policy.addresses("https", "files.example", 443, name="x", trust=Trust(proxied=True)) == []
    with pytest.raises(FetchError, match="not a public address"):
        await _policy("10.0.0.1").addresses("https", "files.example", 443, name="x", trust=Trust(proxied=True))


async def test_plain_http_is_forbidden_without_a_lookup() -> None:
    """Plain http to a public host is forbidden before the host is resolved."""
    lookups: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        lookups.append(host)
        return ["8.8.8.8"]

    with pytest.raises(FetchError, match="does not use https") as caught:
        await _addresses(AddressPolicy([], resolve), "http", "files.example", 80)
    assert caught.value.forbidden
    assert lookups == []


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
async def test_only_the_private_hosts_in_the_settings_are_allowed(
    private: str, host: str, port: int, allowed: bool
) -> None:
    """A private host is allowed by its exact name, with any port or with the listed one."""
    policy = _policy("127.0.0.1", private=private)
    if allowed:
        assert await _addresses(policy, "http", host, port) == ["127.0.0.1"]
    else:
        with pytest.raises(FetchError):
            await _addresses(policy, "https", host, port)


@pytest.mark.parametrize("scheme", ["ftp", "file", "", "gopher"])
async def test_only_http_and_https_are_fetched(scheme: str) -> None:
    """Other schemes are forbidden, also for a private host."""
    with pytest.raises(FetchError) as caught:
        await _addresses(_policy("127.0.0.1", private="host"), scheme, "host", 1)
    assert caught.value.forbidden


async def test_an_unresolved_host_is_not_forbidden() -> None:
    """A host that does not resolve is an error that can be retried."""
    with pytest.raises(FetchError, match="host does not resolve") as caught:
        await _addresses(_policy(), "https", "files.example", 443)
    assert not caught.value.forbidden


@pytest.mark.parametrize(
    ("url", "displayed"),
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
def test_a_url_is_displayed_without_its_secrets(url: str, displayed: str) -> None:
    """The displayed URL has no query, fragment, password or control characters, and at most 300 characters."""
    assert display_url(url) == displayed
