"""Which requests are answered while there is no key: not those of every page that a browser has open.

A browser on this machine reaches the loopback address for any page. Some requests it sends for the page
without asking first: Origin tells. Or the page's server points its own name at this address, so that the page
may read what is answered (DNS rebinding): Host tells.
"""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

_PORT = re.compile(r":\d*$")


class HostNotAllowed(Exception):
    """The request is for a host name that is not known to be this server's."""


class OriginNotAllowed(Exception):
    """The request was made by a page of another server."""


class BrowserGuard:
    """Knows this server's host ``names``, in lower case, and the ``origins`` that may call it; "*": any."""

    def __init__(self, names: Collection[str], origins: Collection[str]) -> None:
        self._names = names
        self._origins = origins

    def check(self, headers: Headers) -> None:
        """Raise HostNotAllowed or OriginNotAllowed for what another server's page may have sent."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _PORT.sub("", host).lower().removesuffix(".")
        if not ("*" in self._names or name in self._names or _is_address(name)):
            raise HostNotAllowed(
                "Without API keys this server answers to its address, to localhost and to the names in "
                f"allowed_hosts, and {name!r} is none of them."
            )
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        if urlsplit(origin).netloc.lower() != host.lower():
            raise OriginNotAllowed(
                "Without API keys this server answers to its own pages and to those of the origins in "
                f"cors_origins, and {origin!r} is none of them."
            )


def _is_address(name: str) -> bool:
    """Nobody can point an address elsewhere, as a name can be."""
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
