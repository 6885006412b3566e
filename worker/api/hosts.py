"""Which Host and Origin control routes answer to, against pages that make a browser on this machine ask (CWE-346).

Without a list of hosts: where tokens are asked for, any, since such a page has none; else addresses and `localhost`,
since rebinding a DNS name to an address needs a name.
"""

from __future__ import annotations

import ipaddress
import re

from worker.api.problems import Problem

# uri-host [":" port] (RFC 9110, 7.2); what is within brackets is an IPv6 address.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._~!$&'()*+,;=%-]+?)\.?(:[0-9]*)?")
_MAX_REMEMBERED = 256


class Hosts:
    """
    Args:
        allowed: host names, addresses, or either with a port; where it is empty the rule above holds.
        origins: foreign origins that are let in, as a browser sends them: `https://console.example`.
        any_host: whether every host is served when `allowed` is empty.
    """

    def __init__(self, allowed: tuple[str, ...], origins: tuple[str, ...], *, any_host: bool) -> None:
        self._allowed = frozenset(host.lower().rstrip(".") for host in allowed)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._any_host = any_host and not allowed
        self._known: set[bytes] = set()  # hosts that were found right; mostly there is one

    def check_host(self, host: bytes | None, http_version: str) -> None:
        """Raises: Problem: bad_header, host_refused."""
        if host in self._known:
            return
        if host is None:
            if http_version != "1.0":  # RFC 9112, 3.2
                raise Problem("bad_header", "a request has a Host", "host")
            return
        found = _HOST.fullmatch(host.decode("latin-1").lower())
        if found is None:
            raise Problem("bad_header", "Host must be a host name or address, with or without a port", "host")
        if not self._serves(found[1], found[2] or ""):
            raise Problem("host_refused", "this host is not in --allowed-host", "host")
        if len(self._known) < _MAX_REMEMBERED:
            self._known.add(host)

    def check_origin(self, origin: bytes | None, host: bytes | None) -> None:
        """Raises: Problem: origin_refused, for a page of another host than the one it asks."""
        if origin is None:
            return
        text = origin.decode("latin-1").lower()
        if host is not None and text.partition("://")[2] == host.decode("latin-1").lower():
            return
        if text not in self._origins:
            raise Problem("origin_refused", "this origin is neither this worker's nor in --allowed-origin", "origin")

    def _serves(self, name: str, port: str) -> bool:
        if self._any_host:
            return True
        if self._allowed:
            return name in self._allowed or name + port in self._allowed
        return name == "localhost" or _is_address(name.strip("[]"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(client: str) -> bool:
    """Whether a peer's address is this machine's own."""
    if client.startswith("127.") or client == "::1":
        return True
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
