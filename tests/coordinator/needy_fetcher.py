"""Fetches in one process: each in a sealed child of its own, whose allow-list may lack one rule.

On stdin a JSON list of objects: `lacking` (a rule's name, or ""), `request`, `play` (the source of native code to play
where it would download, or ""), `pause` (whether it is stopped and goes on while it waits). On stdout a JSON list of
their ends, `[exit code or minus the signal, answer or ""]`.

Limits and both stages of the seal are the product's own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from tests.coordinator.played_fetcher import played
from worker.coordinator import fetch_http, fetch_seal, fetcher, memfd
from worker.coordinator.fetch_wire import decode_request, encode_answer

PAUSES = 20
DEADLINE_S = 20.0


def end_of(case: dict[str, Any]) -> tuple[int, str]:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        _fetch(case, theirs)
    os.close(theirs)
    if case["pause"]:
        _pause(pid)
    said = b""
    while data := os.read(ours, 4096):
        said += data
    os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()


def _fetch(case: dict[str, Any], theirs: int) -> NoReturn:
    request = decode_request(case["request"].encode())
    assert not case["lacking"] or case["lacking"] in {rule.name for rule in fetch_seal.RULES}
    fetch_seal.RULES = tuple(rule for rule in fetch_seal.RULES if rule.name != case["lacking"])
    if case["play"]:
        fetch_http.download = lambda *_, **__: played(case["play"])  # type: ignore[assignment]
    file = memfd.create("module")
    fetcher.limit_self(request)
    fetch_seal.hold_files(fetch_seal.readable(request))
    answer = fetcher.fetch(request, file, seal=lambda: fetch_seal.close(request))
    os.write(theirs, encode_answer(answer))
    os._exit(0)


def _pause(pid: int) -> None:
    """SIGSTOP and SIGCONT while it waits, many times: one alone may come just when it doesn't."""
    for _ in range(PAUSES):
        if not _await_state(pid, "S"):
            return
        os.kill(pid, signal.SIGSTOP)
        _await_state(pid, "T")
        os.kill(pid, signal.SIGCONT)


def _await_state(pid: int, state: str) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while (found := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != state:
        if found == "Z":
            return False
        assert time.monotonic() < deadline, f"not in state {state} in time"
        time.sleep(0.002)
    return True


if __name__ == "__main__":
    os.write(1, json.dumps([end_of(case) for case in json.load(sys.stdin)]).encode())
