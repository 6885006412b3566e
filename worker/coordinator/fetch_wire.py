"""What coordinator and fetcher say to each other: one JSON request in a memory file, one JSON line on a pipe.

The answer comes from a process that has read hostile bytes off the network, so it is hostile itself: at most
MAX_ANSWER_BYTES of it are kept, and every field is checked for what it may be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from runner.module_caps import Caps
from worker.core.module import Extern
from worker.errors import FetchError

# The interface that admission lets pass (192 KiB), each byte escaped (\u0001), and its punctuation.
MAX_ANSWER_BYTES = 2 * 1024 * 1024
MAX_DETAIL_CHARACTERS = 2_000

# Why a fetch failed. Besides these, admission's own (`runner.errors.ModuleRefused.code`).
CODES = (
    "url_refused",  # the URL, a redirect or an address that it leads to isn't one that the worker fetches from
    "unreachable",  # no name, no connection, no TLS, or it broke off
    "bad_answer",  # an answer that isn't 200 with a module's bytes
    "timed_out",
    "module_too_large",
    "digest_mismatch",  # what came isn't what the task names
    "storage_full",
    "internal",  # the fetcher itself failed
    "module_text",
    "module_component",
    "module_precompiled",
    "module_malformed",
    "module_limit",
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KINDS = frozenset(("func", "table", "memory", "global", "tag"))
_TYPE = re.compile(r"[a-z0-9]{3,16}|\(ref (null )?[a-z0-9]{1,10}\)")


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What to fetch and within which limits. It satisfies `worker.core.urls.FetchRules`.

    `digest` is None where the task doesn't name one. `ca_file` is a PEM file of certificate authorities, None for the
    system's. `uid` (and gid) is the fetcher's own, 0 where none can be taken; `allow_unsealed`: go on without seccomp.
    """

    url: str
    digest: str | None
    max_bytes: int
    timeout_s: float
    caps: Caps
    fetch_allow: tuple[str, ...] = ()
    file_dirs: tuple[str, ...] = ()
    ca_file: str | None = None
    uid: int = 0
    allow_unsealed: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """The module is in the file, whole and on disk, and was admitted."""

    digest: str
    size_bytes: int
    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """It isn't. `code` is one of CODES; `detail` says what was wrong and what would be right."""

    code: str
    detail: str


Answer = Fetched | FetchFailed


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """The answer as it is written: either `code` and `detail`, or the others."""

    code: str = ""
    detail: str = ""
    digest: str = ""
    size_bytes: int = 0
    imports: tuple[Extern, ...] = ()
    exports: tuple[Extern, ...] = ()


_line_decoder = msgspec.json.Decoder(_Line)


def encode_request(request: FetchRequest) -> bytes:
    return msgspec.json.encode(request)


def decode_request(data: bytes) -> FetchRequest:
    """The coordinator's request: it is trusted, so that a wrong one is a bug."""
    return msgspec.json.decode(data, type=FetchRequest)


def encode_answer(answer: Answer) -> bytes:
    """One line, its end included."""
    if isinstance(answer, FetchFailed):
        line = _Line(code=answer.code, detail=answer.detail[:MAX_DETAIL_CHARACTERS])
    else:
        line = _Line(digest=answer.digest, size_bytes=answer.size_bytes, imports=answer.imports, exports=answer.exports)
    return msgspec.json.encode(line) + b"\n"


def decode_answer(data: bytes, request: FetchRequest) -> Answer:
    """The fetcher's answer to `request`, from hostile bytes.

    Raises:
        FetchError: it isn't one, or claims what the request doesn't allow.
    """
    if not data.endswith(b"\n") or len(data) > MAX_ANSWER_BYTES:
        raise FetchError("internal", "the fetcher ended without a whole answer")
    try:
        line = _line_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise FetchError("internal", f"the fetcher's answer isn't one: {exc}") from exc
    if line.code:
        if line.code not in CODES:
            raise FetchError("internal", "the fetcher's answer has a code that isn't one")
        return FetchFailed(line.code, line.detail[:MAX_DETAIL_CHARACTERS])
    if not _plausible(line, request):
        raise FetchError("internal", "the fetcher's answer claims what can't be")
    return Fetched(line.digest, line.size_bytes, line.imports, line.exports)


def _plausible(line: _Line, request: FetchRequest) -> bool:
    caps = request.caps
    return (
        _DIGEST.fullmatch(line.digest) is not None
        and request.digest in (None, line.digest)
        and 0 < line.size_bytes <= request.max_bytes
        and len(line.imports) <= caps.max_imports
        and len(line.exports) <= caps.max_exports
        and all(_plausible_extern(extern, caps) for extern in (*line.imports, *line.exports))
        and sum(map(_strings_bytes, (*line.imports, *line.exports))) <= caps.max_interface_bytes
    )


def _plausible_extern(extern: Extern, caps: Caps) -> bool:
    return (
        extern.kind in _KINDS
        and max(len(extern.name.encode()), len(extern.module.encode())) <= caps.max_name_bytes
        and all(_TYPE.fullmatch(name) for name in (*extern.params, *extern.results))
    )


def _strings_bytes(extern: Extern) -> int:
    return sum(len(text.encode()) for text in (extern.name, extern.module, *extern.params, *extern.results))
