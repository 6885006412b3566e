"""A fetcher that plays native code of the test's where it would download: what a hijacked one could do.

Limits and both stages of the seal are the product's own. PLAY in the environment is the source of one play, in a whole
fetcher's place: what it leaves in `result` comes back as the failure's detail. PLAYS is a JSON object of many, each
played in a sealed child of its own; their ends are printed as a JSON object, `[wait status, result]` by name.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
from typing import Any

from runner.syscall_numbers import number_of
from worker.coordinator import fetch_http, fetch_seal, fetcher
from worker.coordinator.fetch_wire import FetchRequest, decode_request
from worker.errors import FetchError

_libc = ctypes.CDLL(None, use_errno=True)


def raw(name: str, *arguments: int) -> int:
    """One system call by name: its result, or minus its errno."""
    number = number_of(name)
    assert number is not None, f"this machine has no {name}"
    result: int = _libc.syscall(*[ctypes.c_long(value) for value in (number, *arguments, *[0] * (6 - len(arguments)))])
    return -ctypes.get_errno() if result == -1 else result


def played(source: str) -> str:
    scene: dict[str, Any] = {"raw": raw, "os": os, "socket": socket, "result": ""}
    exec(source, scene)
    return str(scene["result"])


def play_in_child(request: FetchRequest, source: str) -> list[object]:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        fetcher.limit_self(request)
        fetch_seal.hold_files(fetch_seal.readable(request))
        fetch_seal.close(request)
        os.write(theirs, played(source).encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    return [os.waitpid(pid, 0)[1], said]


def main() -> None:
    if "PLAYS" in os.environ:
        request = decode_request(os.environ["REQUEST"].encode())
        plays = json.loads(os.environ["PLAYS"])
        os.write(1, json.dumps({name: play_in_child(request, source) for name, source in plays.items()}).encode())
        return
    source = os.environ.pop("PLAY")

    def play(*_: Any, **__: Any) -> None:
        raise FetchError("bad_answer", played(source))

    fetch_http.download = play  # type: ignore[assignment]
    fetcher.main()


if __name__ == "__main__":
    main()
