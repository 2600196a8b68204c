"""The proxies of the environment: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in upper or lower case, as boto3 reads them."""

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from urllib3.exceptions import LocationParseError
from urllib3.util import make_headers, parse_url

from i2v.errors import UsageError

PROXY_HINT = "Check HTTPS_PROXY and HTTP_PROXY, including the user name and password in them, and NO_PROXY"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """A forward proxy. `str` and `repr` leave out its user name and password."""

    scheme: str
    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)
    """User name and password, with a colon between them."""

    @classmethod
    def parse(cls, name: str, value: str) -> Self:
        """Read the variable `name`; raise `UsageError` if it is not the URL of an HTTP proxy."""
        try:
            url = parse_url(value if "://" in value else f"http://{value}")
        except LocationParseError:
            raise _not_usable(name) from None
        if url.scheme not in _DEFAULT_PORTS or not url.host:
            raise _not_usable(name)
        port = url.port or _DEFAULT_PORTS[url.scheme]
        return cls(url.scheme, url.host.strip("[]"), port, unquote(url.auth) if url.auth else None)

    @property
    def headers(self) -> dict[str, str]:
        """The header that names the user, if the URL has one."""
        return make_headers(proxy_basic_auth=self.credentials) if self.credentials else {}

    def __str__(self) -> str:
        return _netloc(self.host, self.port)


class Proxies:
    """The proxies as the environment sets them now. Raise `UsageError` if one is not the URL of an HTTP proxy."""

    def __init__(self) -> None:
        values = getproxies()
        self._by_scheme = {
            scheme: Proxy.parse(f"{scheme.upper()}_PROXY", values[scheme])
            for scheme in _DEFAULT_PORTS
            if values.get(scheme)
        }

    def find(self, scheme: str, host: str, port: int | None = None) -> Proxy | None:
        """Return the proxy for requests to this host; `host` has no brackets."""
        proxy = self._by_scheme.get(scheme)
        if proxy is None or proxy_bypass(_netloc(host, port or _DEFAULT_PORTS[scheme])) or proxy_bypass(host):
            return None
        return proxy


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _not_usable(name: str) -> UsageError:
    return UsageError(f"{name} is not the URL of an HTTP proxy", "Set it to e.g. http://proxy.example:3128")
