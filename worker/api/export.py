"""The handler ABI `export`: `{"params": [...]}` calls a function of numbers, which answers `{"result": [...]}`."""

from __future__ import annotations

import struct

import orjson

from runner.errors import ProtocolError
from runner.protocol.call import Answer
from worker.api.problems import Problem
from worker.core import values
from worker.core.task import Handler

_JSON = (b"content-type", b"application/json")
_EMPTY: dict[str, object] = {"params": []}


class Export:
    """An export, by its number types: each parameter and result is 64 bits, little-endian."""

    wants_variables = False

    def __init__(self, handler: Handler) -> None:
        self._params = handler.params
        self._results = handler.results
        self._request = struct.Struct(f"<{len(handler.params)}Q")
        self._answer = struct.Struct(f"<{len(handler.results)}Q")

    def most_answer_bytes(self, _output_bytes: int) -> int:
        return self._answer.size

    def request(self, body: bytes) -> bytes:
        if not (body or self._params):
            return b""
        params = _read(body)
        try:
            typed = values.type_params(params, self._params)
        except values.BadParam as exc:
            field = "params" if exc.index is None else f"params[{exc.index}]"
            raise Problem("field_type", exc.message, field) from None
        return self._request.pack(*[bits for _, bits in typed])

    def response(self, answer: Answer) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if len(answer.body) != self._answer.size:
            raise ProtocolError(f"{len(self._results)} results have {self._answer.size} bytes, not {len(answer.body)}")
        raw = self._answer.unpack(answer.body)
        result = values.write_values(zip(self._results, raw, strict=True))
        return 200, [_JSON], orjson.dumps({"result": result})


def _read(body: bytes) -> list[object]:
    document = _EMPTY
    if body:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise Problem("bad_json", f"the body is not JSON: {exc}") from None
        _check_once(body)
    if not isinstance(document, dict):
        raise Problem("field_type", 'the body is an object, {"params": [...]}')
    for name in document:
        if name != "params":
            raise Problem("field_unknown", f"{name} is unknown; there is params", name)
    if "params" not in document:
        raise Problem("field_missing", "params is needed, an array", "params")
    params = document["params"]
    if not isinstance(params, list):
        raise Problem("field_type", "params is an array", "params")
    return params


def _check_once(body: bytes) -> None:
    """Of a name that comes twice the parser takes the last, and who looked at the body before may have taken the first.

    The one name that may be there is written out, unless somebody hides it.
    """
    if body.count(b'"params"') > 1 or b"\\u" in body:
        raise Problem("bad_json", "the body has the name params once, written without escapes")
