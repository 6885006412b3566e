"""Where a call goes: the table's routes as this API worker read them last, until the shared page says they changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, unquote_to_bytes

from worker.api import cgi
from worker.api.abi import ABIS
from worker.api.call_rights import Rules
from worker.api.paths import check_path
from worker.api.problems import Problem, route_unknown
from worker.config_values import CALLS_DIRECTORY
from worker.core.functions import FunctionRow
from worker.errors import TableError
from worker.shared.routes import Route

PREFIX = b"/functions/"
DEFAULT = "default"
# sockaddr_un holds 108 bytes with the final NUL (unix(7)).
_MAX_SOCKET_PATH_BYTES = 107
# Bounds of what is kept: paths are the client's.
_MAX_TARGETS, _MAX_KEPT_BYTES = 256, 512


class Revision:
    """One revision that calls may go to, and what is worked out of its spec once.

    Attributes:
        address: its listening socket's path.
        abi: how its guest is spoken to.
        most_answer_bytes: the longest answer that its guest may give.
        queue_s: how long a call may wait, all tries together.
        rules: what its callers may.
        trouble: why its runners can't start, None where they can.
    """

    __slots__ = ("abi", "address", "handler", "most_answer_bytes", "queue_s", "rules", "task_id", "trouble")

    def __init__(self, route: Route, address: str) -> None:
        spec = route.spec
        assert spec.service is not None, "routes are services'"
        self.task_id = route.task_id
        self.address = address
        self.handler = spec.service.handler
        self.abi = ABIS[self.handler.abi](self.handler)
        self.rules = Rules(self.handler, spec.limits)
        self.most_answer_bytes = self.abi.most_answer_bytes(spec.limits.output_bytes)
        self.queue_s = (spec.queue_ms or 0) / 1000
        self.trouble = route.trouble


class Target(NamedTuple):
    """Where calls to one path go."""

    revision: Revision
    path: cgi.Path


class Page(Protocol):
    @property
    def route_generation(self) -> int: ...


class Routes:
    """
    Args:
        read: the table's functions and revisions, at one moment; raises TableError.
        page: says when they have changed.
    """

    def __init__(self, read: Callable[[], tuple[list[FunctionRow], list[Route]]], page: Page, data_dir: Path) -> None:
        self._read = read
        self._page = page
        self._directory = data_dir / CALLS_DIRECTORY
        self._data_fd = -1
        self._data_dir = data_dir
        self._generation = -1
        self._defaults: dict[str, str | None] = {}
        self._routed: dict[str, dict[str, Revision]] = {}
        self._revisions: dict[str, Revision] = {}
        self._targets: dict[bytes, Target] = {}

    def close(self) -> None:
        if self._data_fd >= 0:
            os.close(self._data_fd)
            self._data_fd = -1

    def find(self, path: bytes) -> Target:
        """Where a call to this raw path goes now.

        Raises:
            Problem: bad_path, function_unknown, revision_unknown, no_default_revision, coordinator_unavailable.
        """
        generation = self._page.route_generation
        if generation != self._generation:
            self._refresh(generation)
        target = self._targets.get(path)
        if target is None:
            target = self._resolve(path)
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            if len(path) <= _MAX_KEPT_BYTES:
                self._targets[path] = target
        return target

    def _refresh(self, generation: int) -> None:
        try:
            functions, routes = self._read()
        except TableError as exc:
            raise Problem("coordinator_unavailable", f"the routes can't be read: {exc}", executed="no") from exc
        self._defaults = {row.name: row.default for row in functions}
        self._routed = {}
        before, self._revisions = self._revisions, {}
        for route in routes:
            self._defaults.setdefault(route.function, None)
            if route.routed:
                revision = before.get(route.task_id) or Revision(route, self._address(route.task_id))
                revision.trouble = route.trouble
                self._revisions[route.task_id] = revision
                self._routed.setdefault(route.function, {})[route.revision] = revision
        self._targets = {}
        self._generation = generation

    def _resolve(self, path: bytes) -> Target:
        text = check_path(path)
        names = path[len(PREFIX) :].split(b"/", 2)
        if b"" in names[:2]:
            raise route_unknown(text)
        function = unquote(names[0].decode("ascii"))
        revision = unquote(names[1].decode("ascii")) if len(names) > 1 else DEFAULT
        script_name = "/".join(["/functions", function, revision][: 1 + min(len(names), 2)])
        path_info = unquote_to_bytes(b"/" + names[2]) if len(names) == 3 else b""
        if b"\0" in path_info:
            raise Problem("bad_path", "a path has no NUL (%00): no variable can hold it")
        return Target(self._revision(function, revision), cgi.Path(path, script_name.encode(), path_info))

    def _revision(self, function: str, name: str) -> Revision:
        if function not in self._defaults:
            raise Problem("function_unknown", f"no function {function} is here")
        if name == DEFAULT:
            default = self._defaults[function]
            if default is None:
                raise Problem("no_default_revision", f"{function} has no default revision: name one, or switch one on")
            name = default
        revision = self._routed.get(function, {}).get(name)
        if revision is None:
            raise Problem("revision_unknown", f"no revision {name} of {function} takes calls here")
        return revision

    def _address(self, task_id: str) -> str:
        path = str(self._directory / task_id)
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
            return path
        if self._data_fd < 0:
            self._data_fd = os.open(self._data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._data_fd}/{CALLS_DIRECTORY}/{task_id}"
