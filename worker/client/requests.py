"""Every request of the API that the client makes, and how its answer is read. No request is sent here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from json import dumps
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from worker.client.answers import (
    CallAnswer,
    Function,
    Module,
    Page,
    Stats,
    Switched,
    Task,
    Typed,
    read_answer,
)
from worker.client.errors import NotAWorker, Refused

T = TypeVar("T")
Document = Mapping[str, Any]
# Counts the bytes of a body that were handed to the connection.
OnSent = Callable[[int], None]
MAX_WAIT_S = 60  # of `Prefer: wait=N`
_PIECE_BYTES = 64 * 1024
_JSON, _PROBLEM, _WASM = "application/json", "application/problem+json", "application/wasm"
_EXECUTED = "x-galago-executed"


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request. `read` makes the answer; `wait_s` is how long the worker may keep it back beside its own work."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Pieces | None = None
    wait_s: float = 0


class Pieces:
    """A body that is sent piece by piece, for somebody who watches. It can be sent again, from its start."""

    def __init__(self, data: bytes, on_sent: OnSent) -> None:
        self._data = data
        self._on_sent = on_sent

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(self._data)
        for start in range(0, len(view), _PIECE_BYTES):
            yield bytes(view[start : start + _PIECE_BYTES])
            self._on_sent(min(start + _PIECE_BYTES, len(view)))

    async def stream(self) -> AsyncIterator[bytes]:
        """The same for the async client: httpx takes what can be iterated both ways for the blocking kind."""
        for piece in self:
            yield piece


# Modules


def upload(module: bytes, on_sent: OnSent | None = None) -> Request[Module]:
    body = module if on_sent is None else Pieces(module, on_sent)
    return Request("POST", "/modules", one(Module), {"content-type": _WASM}, body=body)


def modules(limit: int, after: str | None) -> Request[Page[Module]]:
    return Request("GET", "/modules", page(Module, "modules"), query=_query(limit=limit, after=after))


def module(digest: str) -> Request[Module]:
    return Request("GET", f"/modules/{_segment(digest)}", one(Module))


def delete_module(digest: str) -> Request[None]:
    return Request("DELETE", f"/modules/{_segment(digest)}", nothing)


# Tasks


def submit(task: Document, wait_s: int, idempotency_key: str | None) -> Request[Task]:
    headers = {"content-type": _JSON, **_prefer(wait_s)}
    if idempotency_key is not None:
        headers["idempotency-key"] = idempotency_key
    return Request("POST", "/tasks", one(Task), headers, body=dumps(task).encode(), wait_s=wait_s)


def tasks(limit: int, after: str | None, filters: Mapping[str, str | None]) -> Request[Page[Task]]:
    return Request("GET", "/tasks", page(Task, "tasks"), query=_query(limit=limit, after=after, **filters))


def task(task_id: str, wait_s: int = 0) -> Request[Task]:
    return Request("GET", f"/tasks/{_segment(task_id)}", one(Task), _prefer(wait_s), wait_s=wait_s)


def stop(task_id: str, force: bool) -> Request[None]:
    return Request("DELETE", f"/tasks/{_segment(task_id)}", nothing, query={"force": "1"} if force else {})


def output(task_id: str, stream: str) -> Request[bytes]:
    return Request("GET", f"/tasks/{_segment(task_id)}/{stream}", content)


def output_size(task_id: str, stream: str) -> Request[int]:
    return Request("HEAD", f"/tasks/{_segment(task_id)}/{stream}", length)


# Functions and the node


def functions(limit: int, after: str | None) -> Request[Page[Function]]:
    return Request("GET", "/functions", page(Function, "functions"), query=_query(limit=limit, after=after))


def function(name: str) -> Request[Function]:
    return Request("GET", f"/revisions/{_segment(name)}", one(Function))


def switch(name: str, revision: str, on: bool, generation: int | None) -> Request[Switched]:
    path = f"/revisions/{_segment(name)}/{_segment(revision)}/default/{'on' if on else 'off'}"
    headers = {} if generation is None else {"if-match": f'"{generation}"'}
    return Request("PUT", path, one(Switched), headers)


def call(
    function: str, revision: str | None, path: str, method: str, body: bytes, headers: Mapping[str, str], wait_s: float
) -> Request[CallAnswer]:
    """`path` is what follows the revision, as it stands in a URL: quoted, with its query."""
    rest = path if not path or path.startswith(("/", "?")) else f"/{path}"
    if rest.startswith("/") and revision is None:
        revision = "default"  # the segment after the function is always a revision
    parts = [f"/functions/{_segment(function)}", *([_segment(revision)] if revision is not None else [])]
    return Request(method, "/".join(parts) + rest, called, headers, body=body or None, wait_s=wait_s)


def stats() -> Request[Stats]:
    return Request("GET", "/stats", one(Stats))


# How answers are read


def one(kind: type[Typed]) -> Callable[[httpx.Response], Typed]:
    """One typed document."""

    def read(response: httpx.Response) -> Typed:
        document = _document(response)
        try:
            return read_answer(kind, document)
        except msgspec.ValidationError as exc:
            raise NotAWorker(str(response.url), response.status_code, f"an unknown document ({exc})") from exc

    return read


def page(kind: type[Typed], name: str) -> Callable[[httpx.Response], Page[Typed]]:
    """A page of them, in the member `name`."""

    def read(response: httpx.Response) -> Page[Typed]:
        document = _document(response)
        try:
            items = tuple(read_answer(kind, item) for item in document[name])
            return Page(items, document["next"], document)
        except (msgspec.ValidationError, KeyError, TypeError) as exc:
            raise NotAWorker(str(response.url), response.status_code, f"an unknown document ({exc})") from exc

    return read


def nothing(response: httpx.Response) -> None:
    _check(response)


def content(response: httpx.Response) -> bytes:
    _check(response)
    return response.content


def length(response: httpx.Response) -> int:
    _check(response)
    return int(response.headers.get("content-length", "0"))


def called(response: httpx.Response) -> CallAnswer:
    """A guest's answer, whatever its status; a call that no guest answered is a problem.

    Raises:
        Refused: no guest answered.
    """
    if _EXECUTED not in response.headers:
        _check(response)
        raise NotAWorker(str(response.url), response.status_code, f"no {_EXECUTED}")
    # A guest may answer a problem of its own, which says nothing of what was executed.
    refused = refusal(response) if response.is_error else None
    if isinstance(refused, Refused) and refused.document.get("executed") == response.headers[_EXECUTED]:
        raise refused
    return CallAnswer(response.status_code, response.headers, response.content)


def refusal(response: httpx.Response) -> Refused | NotAWorker:
    """What a refusal says. A HEAD's has no document; its status tells enough."""
    retry_after = response.headers.get("retry-after", "")
    try:
        document = msgspec.json.decode(response.content or b"{}", type=dict[str, Any])
    except msgspec.DecodeError:
        document = None
    kind = response.headers.get("content-type", "")
    if kind.partition(";")[0] != _PROBLEM or document is None:
        return NotAWorker(str(response.url), response.status_code, f"{kind or 'no content'}")
    return Refused(response.status_code, document, float(retry_after) if retry_after.isdecimal() else None)


def _check(response: httpx.Response) -> None:
    if response.is_error:
        raise refusal(response)
    if not response.is_success:
        raise NotAWorker(str(response.url), response.status_code, response.headers.get("location", "nothing more"))


def _document(response: httpx.Response) -> dict[str, Any]:
    _check(response)
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise NotAWorker(str(response.url), response.status_code, "no JSON") from exc


def _segment(text: str) -> str:
    """One segment of a path. A digest's colon stays, the worker refuses an escaped slash by itself."""
    return quote(text, safe=":")


def _prefer(wait_s: int) -> dict[str, str]:
    return {"prefer": f"wait={min(wait_s, MAX_WAIT_S)}"} if wait_s > 0 else {}


def _query(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
