"""The body of `POST /tasks`: its types and ranges as msgspec has them, and what is wrong with one, by name.

What depends on the operator's configuration, on several fields or on the module is `posted.py`'s.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from worker.api.problems import Problem
from worker.core.names import NAME

# `\Z`, since `$` matches before a last line feed too.
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]

MAX_LABEL_KEY_BYTES = 128
MAX_LABEL_VALUE_BYTES = 256
MAX_ARGS_AND_ENV_BYTES = 128 * 1024
MAX_STDIN_BYTES = 1024 * 1024
DAY_MS = 24 * 3600 * 1000
MAX_RUNNERS_OF_REVISION = 64
MAX_CALLS_OF_INSTANCE = 10**6


class ModuleRef(Struct, forbid_unknown_fields=True, frozen=True):
    digest: Digest | UnsetType = UNSET
    url: Url | UnsetType = UNSET


class PostedEntry(Struct, forbid_unknown_fields=True, frozen=True):
    export: Text
    params: Annotated[list[Raw], Meta(max_length=64)] = []


class Base64(Struct, forbid_unknown_fields=True, frozen=True):
    base64: str


class PostedLimits(Struct, forbid_unknown_fields=True, frozen=True):
    fuel: Annotated[int, Meta(ge=1, le=2**63 - 1)] | UnsetType = UNSET
    memory_bytes: Annotated[int, Meta(ge=64 * 1024)] | UnsetType = UNSET
    wall_ms: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    output_bytes: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class PostedMount(Struct, forbid_unknown_fields=True, frozen=True):
    volume: Name
    guest: Text
    path: Annotated[str, Meta(min_length=1, max_length=1024)] = "."
    mode: Literal["ro", "rw"] = "ro"


class Retry(Struct, forbid_unknown_fields=True, frozen=True):
    max: Annotated[int, Meta(ge=0, le=10)] = 0


class PostedFunction(Struct, forbid_unknown_fields=True, frozen=True):
    name: Name
    revision: Name
    default: bool = False


class PostedHandler(Struct, forbid_unknown_fields=True, frozen=True):
    abi: Literal["wagi", "export"]
    export: Text | UnsetType = UNSET
    auth: Literal["none", "token"] = "none"
    expose_usage: bool = False
    retryable: bool = False
    on_disconnect: Literal["finish", "cancel"] = "finish"


class PostedScale(Struct, forbid_unknown_fields=True, frozen=True):
    min: Annotated[int, Meta(ge=0, le=MAX_RUNNERS_OF_REVISION)] = 0
    max: Annotated[int, Meta(ge=1, le=MAX_RUNNERS_OF_REVISION)] = 4
    idle_ms: Annotated[int, Meta(ge=0, le=DAY_MS)] = 60_000
    queue: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class PostedReuse(Struct, forbid_unknown_fields=True, frozen=True):
    max_calls: Annotated[int, Meta(ge=1, le=MAX_CALLS_OF_INSTANCE)] = 1
    max_memory_bytes: Annotated[int, Meta(ge=64 * 1024)] | UnsetType = UNSET


class Post(Struct, forbid_unknown_fields=True, frozen=True):
    """A task as it is posted. What one kind alone has is UNSET where it isn't given, so that the other can refuse it.

    A job's: `entry`, `stdin`, `isolation`, `retry`. A service's: `function`, `handler`, `scale`, `reuse`.
    """

    kind: Literal["job", "service"]
    module: ModuleRef
    name: Name | UnsetType = UNSET
    entry: PostedEntry | UnsetType = UNSET
    args: Annotated[list[str], Meta(max_length=256)] = []
    env: Annotated[dict[str, str], Meta(max_length=256)] = {}
    stdin: str | Base64 | UnsetType = UNSET
    limits: PostedLimits = PostedLimits()
    queue_ms: Annotated[int, Meta(ge=0, le=DAY_MS)] | UnsetType = UNSET
    callback_url: Url | UnsetType = UNSET
    mounts: Annotated[list[PostedMount], Meta(max_length=16)] = []
    isolation: Literal["process", "instance"] | UnsetType = UNSET
    unknown_imports: Literal["deny", "stub"] = "deny"
    labels: Annotated[dict[str, str], Meta(max_length=32)] = {}
    retry: Retry | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    function: PostedFunction | UnsetType = UNSET
    handler: PostedHandler | UnsetType = UNSET
    scale: PostedScale | UnsetType = UNSET
    reuse: PostedReuse | UnsetType = UNSET


_decode = msgspec.json.Decoder(Post).decode

_AT = re.compile(r" - at `(?:\$(?P<path>[^`]*)|key` in `\$(?P<key>[^`]*))`\Z")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_TYPES = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_RANGE = re.compile(r"Expected `([^`]*)` (.*)", re.DOTALL)
_CHOICES = {
    "kind": "job or service",
    "mode": "ro or rw",
    "isolation": "process or instance",
    "unknown_imports": "deny or stub",
    "abi": "wagi or export",
    "auth": "none or token",
    "on_disconnect": "finish or cancel",
}
_JSON_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def read_post(body: bytes) -> Post:
    """The body of `POST /tasks`.

    Raises:
        Problem: bad_json, field_unknown, field_missing, field_type, field_range.
    """
    try:
        return _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as exc:
        raise Problem("bad_json", f"the body must be one JSON object in UTF-8: {exc}") from None
    except RecursionError:
        raise Problem("bad_json", "the body is nested too deeply") from None


def _read(body: bytes) -> Post:
    """JSON comes before fields: what is no JSON to the end is told so, whatever its beginning says."""
    try:
        post = _decode(body)
    except msgspec.ValidationError as exc:
        raise _refusal(str(exc), _parse(body.decode())) from None
    _parse(body.decode())
    return post


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Problem("bad_json", f"an object has the name {twice!r} twice; who reads the first isn't told so", twice)
    return dict(pairs)


# The standard library's parser alone shows every pair; of a name that comes twice, the others silently take the last.
_parse = json.JSONDecoder(object_pairs_hook=_unique).decode


def _refusal(message: str, document: Any) -> Problem:
    """What msgspec found, in the contract's words. `document` is the whole body."""
    at = _AT.search(message)
    path = ((at["path"] or at["key"] or "") if at else "").removeprefix(".")
    if path.endswith("[...]"):
        path = _member(path.removesuffix("[...]"), document)
    what = message[: at.start()] if at else message
    if found := _UNKNOWN.fullmatch(what):
        field = f"{path}.{found[1]}".lstrip(".")
        return Problem("field_unknown", f"{field} is no field here", field)
    if found := _MISSING.fullmatch(what):
        field = f"{path}.{found[1]}".lstrip(".")
        return Problem("field_missing", f"{field} must be given", field)
    subject = path or "the body"
    if found := _TYPES.fullmatch(what):
        right = " or ".join(_JSON_NAMES.get(name, name) for name in found[1].split(" | "))
        leave_out = "; leave it out for its default" if found[2] == "null" else ""
        detail = f"{subject} must be {right}, not {_JSON_NAMES.get(found[2], found[2])}{leave_out}"
        return Problem("field_type", detail, path or None)
    if found := _RANGE.fullmatch(what):
        return Problem("field_range", f"{subject} must be {_JSON_NAMES.get(found[1], found[1])} {found[2]}", path)
    choices = _CHOICES.get(path.rpartition(".")[2])
    return Problem("field_range", f"{subject} must be {choices}" if choices else f"{subject}: {what}", path or None)


def _member(path: str, document: dict[str, Any]) -> str:
    """Which value of an object of strings (`env`, `labels`) is none; msgspec doesn't say."""
    return next((f"{path}.{name}" for name, value in document[path].items() if not isinstance(value, str)), path)
