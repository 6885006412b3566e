"""What the tests of fetching share: a module, requests for it, and the fetcher's work done in this process."""

from __future__ import annotations

import hashlib
import os

from runner.module_caps import Caps
from worker.coordinator import fetcher, memfd
from worker.coordinator.fetch_wire import Answer, Fetched, FetchFailed, FetchRequest
from worker.core.module import Extern

# (module (func (export "_start")))
WASM = b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\7\x0a\1\6_start\0\0\x0a\4\1\2\0\x0b"
DIGEST = f"sha256:{hashlib.sha256(WASM).hexdigest()}"
EXPECTED = Fetched(DIGEST, len(WASM), (), (Extern("_start", "func"),))
LOOPBACK = ("127.0.0.1",)
MAX_BYTES = 10_000


def request_for(url: str, **changes: object) -> FetchRequest:
    fields: dict[str, object] = {
        "digest": None,
        "max_bytes": MAX_BYTES,
        "timeout_s": 10.0,
        "caps": Caps(),
        "fetch_allow": LOOPBACK,
    }
    return FetchRequest(url=url, **{**fields, **changes})  # type: ignore[arg-type]


def fetched(request: FetchRequest, names: dict[str, list[str]] | None = None) -> tuple[Answer, bytes]:
    """The fetcher's answer, and what it wrote. `names` stands for DNS: each name is asked for once."""
    asked = {name: iter([addresses]) for name, addresses in (names or {}).items()}

    def resolver(host: str, _: int) -> list[str]:
        if host == "127.0.0.1":
            return [host]
        return next(asked[host])

    fd = memfd.create("module")
    try:
        answer = fetcher.fetch(request, fd, resolver)
        return answer, os.pread(fd, MAX_BYTES + 1, 0)
    finally:
        os.close(fd)


def failure(request: FetchRequest, names: dict[str, list[str]] | None = None) -> tuple[str, str]:
    answer, _ = fetched(request, names)
    assert isinstance(answer, FetchFailed), answer
    return answer.code, answer.detail
