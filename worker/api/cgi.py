"""The variables that a WAGI guest gets of a request (RFC 3875, 4.1), as the block that a call's message has.

Left out: what is between the client and the worker alone (hop-by-hop fields, X-Galago-*), `Proxy` (CVE-2016-5385), and
names with an underscore, which would collide with those with a hyphen. A field that comes more than once is joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from worker.api.asgi import Scope
from worker.api.incoming import SINGLE
from worker.api.problems import Problem
from worker.version import DISTRIBUTION, version_of

# RFC 9110, 7.2; the port is the listener's own.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]*)?")
# Bounds of what is kept: methods, names and hosts are the client's, and there are as many paths as `routes` keeps.
_MAX_KEPT, _MAX_KEPT_BYTES = 1024, 256
_MAX_PATH_BLOCKS = 8
_NOT_HANDED_ON = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"expect", b"proxy", b"content-length"),
    )
)
# From a field's name to the beginning of its variable, empty where it isn't handed on.
_prefixes: dict[bytes, bytes] = {b"content-type": b"CONTENT_TYPE="}

_SOFTWARE = f"{DISTRIBUTION}/{version_of()}".encode()

Headers = list[tuple[bytes, bytes]]


def read_fields(headers: Headers) -> dict[bytes, bytes]:
    """The request's header fields, each name once.

    Raises:
        Problem: bad_header: one came twice that two readers could read in two ways.
    """
    fields = dict(headers)
    if len(fields) < len(headers):
        fields.clear()
        for name, value in headers:
            if name in fields and name in SINGLE:
                raise Problem("bad_header", f"{name.decode()} may come once", name.decode())
            joint = b"; " if name == b"cookie" else b", "
            fields[name] = fields[name] + joint + value if name in fields else value
    return fields


class Path:
    """One path that calls are made to, and the variables that are the same for many of them.

    Attributes:
        raw, script_name, path_info: as it was sent; and as RFC 3875 has them, decoded.
    """

    __slots__ = ("_blocks", "path_info", "raw", "script_name")

    def __init__(self, raw: bytes, script_name: bytes, path_info: bytes) -> None:
        self.raw = raw
        self.script_name = script_name
        self.path_info = path_info
        self._blocks: dict[tuple[object, ...], bytes] = {}

    def variables(self, scope: Scope, fields: Mapping[bytes, bytes], body_bytes: int | None) -> tuple[bytes, int]:
        """(`NAME=value`, each ended by a NUL; how many).

        Args:
            fields: what is handed on of the header, and Host.
            body_bytes: the body's length, None where the request has none.

        Raises:
            Problem: bad_header: a value has a NUL.
        """
        query: bytes = scope["query_string"]
        uri = b"%b?%b" % (self.raw, query) if query else self.raw
        parts = [
            self._same(scope, fields.get(b"host", b"")),
            b"REMOTE_ADDR=" + scope["client"][0].encode(),
            b"REQUEST_URI=" + uri,
            b"QUERY_STRING=" + query,
        ]
        if body_bytes is not None:
            parts.append(b"CONTENT_LENGTH=%d" % body_bytes)
        if b"traceparent" in fields:
            parts.append(b"TRACEPARENT=" + fields[b"traceparent"])
        prefixes = _prefixes if fields.keys() <= _prefixes.keys() else _learn(fields)
        parts += [prefix + value for name, value in fields.items() if (prefix := prefixes[name])]
        block = b"\0".join(parts) + b"\0"
        count = len(parts) + _SAME - 1
        if block.count(b"\0") != count:
            raise Problem("bad_header", "no header field has a NUL")
        return block, count

    def _same(self, scope: Scope, host: bytes) -> bytes:
        key = scope["method"], scope["http_version"], host, scope["server"]
        block = self._blocks.get(key)
        if block is None:
            block = b"\0".join([b"%b=%b" % variable for variable in _same(self, scope, host)])
            if len(self._blocks) >= _MAX_PATH_BLOCKS:
                self._blocks.clear()
            if len(host) <= _MAX_KEPT_BYTES:
                self._blocks[key] = block
        return block


_SAME = 8  # what `_same` gives


def _same(path: Path, scope: Scope, host: bytes) -> tuple[tuple[bytes, bytes], ...]:
    address, port = scope["server"]
    found = _HOST.fullmatch(host)
    return (
        (b"GATEWAY_INTERFACE", b"CGI/1.1"),
        (b"SERVER_SOFTWARE", _SOFTWARE),
        (b"SERVER_PROTOCOL", b"HTTP/" + scope["http_version"].encode()),
        (b"SERVER_NAME", found[1] if found else address.encode()),
        (b"SERVER_PORT", b"%d" % port),
        (b"REQUEST_METHOD", scope["method"].encode()),
        (b"SCRIPT_NAME", path.script_name),
        (b"PATH_INFO", path.path_info),
    )


def _learn(fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """`_prefixes` with these names, or where it is full, these names alone."""
    found = {name: _prefixes.get(name) or _prefix(name) for name in fields}
    if len(_prefixes) + len(found) > _MAX_KEPT or max(map(len, found)) > _MAX_KEPT_BYTES:
        return found
    _prefixes.update(found)
    return _prefixes


def _prefix(name: bytes) -> bytes:
    if b"_" in name or name in _NOT_HANDED_ON or name.startswith(b"x-galago-"):
        return b""
    return b"HTTP_" + name.upper().replace(b"-", b"_") + b"="
