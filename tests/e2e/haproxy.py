"""HAProxy with the configuration that `deploy/` ships, in front of two workers, and clients that count."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, free_port, wait_for

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
        return _ask(connection, "GET", READY)[0] == 200
    return False


def _ask(connection: http.client.HTTPConnection, method: str, call: str) -> tuple[int, bytes]:
    connection.request(method, f"/functions/tell?{call}")
    answer = connection.getresponse()
    return answer.status, answer.read()


@dataclass
class Count:
    """What the clients saw. `wrong`: a 200 with another call's body."""

    answered: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)  # call -> status, 0 where the connection broke
    wrong: list[tuple[str, bytes]] = field(default_factory=list)


class Clients:
    """So many clients that call one after the other, each with calls that nobody else makes."""

    def __init__(self, port: int, number: int) -> None:
        self.count = Count()
        self._port = port
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(index,)) for index in range(number)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def await_more(self, answers: int) -> None:
        """So many more calls were answered."""
        target = len(self.count.answered) + answers
        wait_for(lambda: len(self.count.answered) >= target, f"{target} answers; failed: {self.count.failed}")

    def _call(self, index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        for number in itertools.count():
            if self._ended.is_set():
                connection.close()
                return
            call = f"c{index}-{number}"
            try:
                status, body = _ask(connection, "POST" if number % 2 else "GET", call)
            except (OSError, http.client.HTTPException):
                connection.close()
                self.count.failed[call] = 0
                time.sleep(0.01)
                continue
            if status != 200:
                self.count.failed[call] = status
            elif body.decode() != call:
                self.count.wrong.append((call, body))
            else:
                self.count.answered.add(call)
