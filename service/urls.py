"""URLs that strangers send: where they point, and whether this server may go there.

One may name what only this server can reach (server-side request forgery). So its form, host and port are
checked before any name is looked up, and then every address of the name.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from service import __version__

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_CHARS = 4096
_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[!-\[\]-~]+")  # ASCII; a backslash is a slash to some readers of URLs
# The last label begins with a letter: 127.1, 0x7f.0.0.1 and 2130706433 are addresses to some resolvers.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?")

# https://www.iana.org/assignments/iana-ipv4-special-registry/, and multicast.
_SPECIAL_V4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
# Of IPv6 only what is routed in the open: IPv4 in disguise (mapped, NAT64) is outside of it to begin with;
# Teredo and 6to4 carry IPv4 addresses, the others are for documentation or were given back.
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_SPECIAL_V6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3ffe::/16", "3fff::/20")
_SPECIAL = tuple(map(ipaddress.ip_network, (*_SPECIAL_V4, *_SPECIAL_V6)))

_PRIVATE = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)


class NotFetched(ValueError):
    """A picture was not fetched; ``reason`` says why in one word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UrlFetchDisabled(NotFetched):
    """A request names a picture by URL; this server does not fetch."""

    def __init__(self) -> None:
        super().__init__("disabled", "Send the picture itself: as base64, a data: URI, or an upload.")


class UrlInvalid(NotFetched):
    """This is no URL of http or https, or one with more in it than an address."""


class UrlNotAllowed(NotFetched):
    """The URL, or a redirect from there, leads where this server does not fetch from."""


class UrlUnreachable(NotFetched):
    """Nothing that could be a picture came from there in time."""


@dataclass(frozen=True)
class Target:
    """Where a URL points."""

    scheme: str
    host: str  # in lower case, without brackets
    port: int
    path: str  # with its query

    @staticmethod
    def of(url: str) -> "Target":
        """Read a URL. Raises UrlInvalid."""
        if len(url) > _MAX_CHARS or not _PRINTABLE.fullmatch(url):
            raise UrlInvalid("url", f"A URL has at most {_MAX_CHARS} characters, of printable ASCII.")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UrlInvalid("url", "The URL is malformed.") from error
        if parts.scheme not in _PORTS:
            raise UrlInvalid("scheme", "The URL is neither of http nor of https.")
        if "@" in parts.netloc:
            raise UrlInvalid("credentials", "The URL has a user name in it; none is ever sent.")
        host = (parts.hostname or "").removesuffix(".")
        if not (_NAME.fullmatch(host) or address_of(host)):
            raise UrlInvalid("url", "The URL's host is neither a name nor a plain address.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, path)

    @property
    def request(self) -> bytes:
        """The request for it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: momoseek/{__version__}\r\n"
            "Accept: image/*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
        ).encode("ascii")


class Allowed:
    """Where pictures may be fetched from.

    ``hosts`` are such as ``cdn.example`` (at the ports 80 and 443), ``cdn.example:8443`` (at that port),
    ``*.cdn.example`` (all below it) and ``*``; ``networks`` are private ones that they may stand in.
    """

    def __init__(self, hosts: Iterable[str], networks: Iterable[str] = ()) -> None:
        self._rules = [host.lower().partition(":") for host in hosts]
        self._networks: list[Network] = [ipaddress.ip_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def check(self, target: Target) -> None:
        """Raise UrlNotAllowed unless this host may be asked at this port."""
        ports = [port for pattern, _, port in self._rules if _matches(pattern, target.host)]
        if not ports:
            raise UrlNotAllowed("host", f"{target.host!r} is not among the hosts that are fetched from.")
        if not any(target.port == int(port) if port else target.port in _PORTS.values() for port in ports):
            raise UrlNotAllowed("port", f"Port {target.port} of {target.host!r} is not fetched from.")

    def includes(self, address: Address) -> bool:
        """Whether an address is in one of the private networks."""
        return any(address in network for network in self._networks)


def redirected(url: str, location: str) -> str:
    """Where a redirect from a URL leads. Raises UrlInvalid."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise UrlInvalid("url", "The URL is redirected to what is none.") from error


def is_public(address: Address) -> bool:
    """Whether an address belongs to a machine in the open internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _SPECIAL)


def is_private_network(text: str) -> bool:
    """Whether this is a network of addresses that are for private use: loopback and link-local are not."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return False
    return any(
        network.network_address in private and network.prefixlen >= private.prefixlen for private in _PRIVATE
    )


def address_of(text: str) -> Address | None:
    """What stands for an address and nothing else; a zone, as in fe80::1%eth0, is part of none."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def _matches(pattern: str, host: str) -> bool:
    return pattern == "*" or host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
