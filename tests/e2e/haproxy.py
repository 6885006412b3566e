"""HAProxy with the configuration that `deploy/` ships, in front of two workers, and clients that count."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.functions import Crowd
from tests.e2e.harness import ROOT, free_port, wait_for

Told = tuple[int, str]  # the status, and whether the call was executed, where a worker said so
BROKE: Told = (0, "")  # HAProxy closed the connection without an answer
READY = "ready"  # the call by which HAProxy is found ready, which may be made any number of times
CONFIG = ROOT / "deploy" / "haproxy.cfg"


def haproxy_path() -> str:
    """HAProxy, installed where that is possible."""
    if shutil.which("haproxy") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
        subprocess.run(["apt-get", "update"], timeout=100, **quiet)  # type: ignore[call-overload]
        subprocess.run(["apt-get", "install", "-y", "haproxy"], timeout=100, **quiet)  # type: ignore[call-overload]
    found = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("HAProxy isn't here and can't be installed: apt-get install haproxy")
    return found


@contextlib.contextmanager
def front(calls: list[int], log: Path) -> Iterator[int]:
    """HAProxy in front of the two workers whose calls listeners are at these ports: the port that it serves on."""
    port = free_port()
    addresses = {f"GALAGO_CALLS_{number}": f"127.0.0.1:{at}" for number, at in enumerate(calls, start=1)}
    environment = {**os.environ, "GALAGO_FRONT": f"127.0.0.1:{port}", **addresses}
    with log.open("wb") as output:
        process = subprocess.Popen([haproxy_path(), "-db", "-f", str(CONFIG)], env=environment, stderr=output)
    try:
        wait_for(lambda: process.poll() is not None or _answers(port), "HAProxy finds a worker ready")
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        return _ask(connection, "GET", READY)[0] == (200, "yes")
    return False


def _ask(connection: http.client.HTTPConnection, method: str, call: str) -> tuple[Told, bytes]:
    connection.request(method, f"/functions/tell?{call}")
    answer = connection.getresponse()
    return (answer.status, answer.headers.get("x-galago-executed", "")), answer.read()


@dataclass
class Count:
    """What the clients saw. `wrong`: a 200 with another call's body."""

    answered: set[str] = field(default_factory=set)
    failed: dict[str, Told] = field(default_factory=dict)
    wrong: list[tuple[str, bytes]] = field(default_factory=list)


class Clients(Crowd):
    """They call `tell`, by GET and POST in turn, each with calls that nobody else makes."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(port, number)
        self.count = Count()

    def ask(self, connection: http.client.HTTPConnection, call: str) -> None:
        told, body = _ask(connection, "POST" if int(call.rpartition("-")[2]) % 2 else "GET", call)
        if told != (200, "yes"):
            self.count.failed[call] = told
        elif body.decode() != call:
            self.count.wrong.append((call, body))
        else:
            self.count.answered.add(call)

    def broke(self, call: str, error: Exception) -> None:
        self.count.failed[call] = BROKE

    def answered(self) -> int:
        return len(self.count.answered)
