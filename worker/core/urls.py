"""Which URLs the worker fetches from: what can be told from the text alone, and which addresses a name may lead to.

The API asks `check_url` when a task is posted. The fetcher asks again, and asks `check_addresses` about what the name
resolved to, for the URL and for each redirect: a name says nothing about where it leads.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from worker.errors import UrlRefused

MAX_URL_CHARACTERS = 2048  # CONTRACT, A task
DEFAULT_PORTS = {"http": 80, "https": 443}

# Visible ASCII without the backslash, which some readers take for a slash.
_CHARACTERS = re.compile(r"[!-\[\]-~]+")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291, all that is handed out
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, newer than Python's own list
_TEREDO = ipaddress.IPv6Network("2001::/32")  # RFC 4380: leads to an IPv4 address that the relay picks

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FetchRules(Protocol):
    """The part of the configuration that says where from: `worker.config.Config` has it."""

    @property
    def fetch_allow(self) -> Sequence[str]:
        """Host names, addresses and networks (CIDR) that may be fetched from though they aren't global."""

    @property
    def file_dirs(self) -> Sequence[str]:
        """Absolute directories below which `file:` URLs may lie."""


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """`scheme` is http or https, `host` in lower case without brackets, `target` what stands in the request line."""

    scheme: str
    host: str
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class FileUrl:
    """`path` is relative to `directory`, an allowed one: no empty part, no `.` or `..`, never absolute."""

    directory: str
    path: str


def check_url(url: str, rules: FetchRules) -> str | None:
    """Why the worker would not fetch from there, or None. No name is resolved, no file is looked at."""
    try:
        parse_url(url, rules)
    except UrlRefused as exc:
        return str(exc)
    return None


def parse_url(url: str, rules: FetchRules) -> HttpUrl | FileUrl:
    """A URL in its parts.

    Raises:
        UrlRefused: it can't be fetched from, whatever is there.
    """
    if not 1 <= len(url) <= MAX_URL_CHARACTERS:
        raise UrlRefused(f"a URL has 1 to {MAX_URL_CHARACTERS} characters, this has {len(url)}")
    if not _CHARACTERS.fullmatch(url):
        raise UrlRefused("a URL has visible ASCII characters only, and no backslash; encode others as %XX")
    if "#" in url:
        raise UrlRefused("a URL to fetch from has no fragment (#)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise UrlRefused(f"this isn't a URL: {exc}") from exc
    if parts.scheme == "file":
        return _file_url(parts, rules)
    if parts.scheme not in DEFAULT_PORTS:
        raise UrlRefused(
            f"modules are fetched by http, https and file, not by {parts.scheme or 'a URL without scheme'}"
        )
    if "@" in parts.netloc:
        raise UrlRefused("a URL to fetch from carries no user and no password")
    if port == 0:
        raise UrlRefused("a port is 1 to 65535, not 0")
    host = _host(parts)
    address = _address(host)
    if address is not None:
        check_addresses(host, [host], rules)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpUrl(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], target)


def check_addresses(host: str, addresses: Iterable[str], rules: FetchRules) -> None:
    """Whether all that `host` resolved to may be connected to.

    Raises:
        UrlRefused: one of them is neither global nor allowed. One is enough: whoever mixes them is up to something.
    """
    if host in {allowed.lower().rstrip(".") for allowed in rules.fetch_allow}:
        return
    networks = _networks(rules.fetch_allow)
    for text in addresses:
        address = _address(text)
        if address is None:
            raise UrlRefused(f"{host} leads to {text}, which isn't a plain address")
        if is_global(address):
            continue
        inner = _embedded(address)
        if not any(candidate in network for network in networks for candidate in (address, inner) if candidate):
            raise UrlRefused(
                f"{host} leads to {text}, which isn't a global address; the operator may allow it (--fetch-allow)"
            )


def is_global(address: Address) -> bool:
    """Whether an address is one of the Internet's: where an IPv6 address stands for an IPv4 one, that decides."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    embedded = _embedded(address)
    if embedded is not None:
        return is_global(embedded)
    if address.scope_id is not None or address in _TEREDO or address in _DOCUMENTATION:
        return False
    return address in _GLOBAL_UNICAST and address.is_global


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _networks(allowed: Iterable[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for text in allowed:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:  # a host's name
            continue
    return found


def _host(parts: SplitResult) -> str:
    """The host, in lower case: an address, or a name that can't be taken for one."""
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise UrlRefused("a URL to fetch from names a host")
    if "[" in parts.netloc:
        address = _address(host)
        if not isinstance(address, ipaddress.IPv6Address) or address.scope_id is not None:
            raise UrlRefused(f"[{host}] isn't an IPv6 address")
        return host
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused(f"{host[:253]!r} isn't a host's name; write an international one in its ASCII form (xn--)")
    # What C libraries read as an address in other notations: 127.1, 0x7f.0.0.1, 2130706433.
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]) and not isinstance(_address(host), ipaddress.IPv4Address):
        raise UrlRefused(f"{host!r} looks like an IPv4 address; write it as four decimal numbers")
    return host


def _file_url(parts: SplitResult, rules: FetchRules) -> FileUrl:
    if parts.netloc not in ("", "localhost"):
        raise UrlRefused("a file: URL names no host: file:///absolute/path")
    if parts.query:
        raise UrlRefused("a file: URL has no query; encode a ? in its path as %3F")
    try:
        path = unquote_to_bytes(parts.path).decode()
    except UnicodeDecodeError as exc:
        raise UrlRefused("the path of a file: URL must be UTF-8") from exc
    first, *names = path.split("/")
    if first or not names or any(name in ("", ".", "..") for name in names) or "\0" in path:
        raise UrlRefused("the path of a file: URL is absolute, without empty parts, `.`, `..` or NUL")
    if not rules.file_dirs:
        raise UrlRefused("file: URLs are off on this worker; the operator may allow a directory (--file-dir)")
    for directory in rules.file_dirs:
        root = directory.rstrip("/") + "/"
        if path.startswith(root):
            return FileUrl(directory, path.removeprefix(root))
    raise UrlRefused(f"{path!r} lies below none of the directories that file: URLs may name (--file-dir)")
