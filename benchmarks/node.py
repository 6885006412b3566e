"""A worker to measure, and a client that costs as little as it can beside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import free_port

OUTPUT_BYTES = 4 << 20  # for the largest body that a handler gives back, and its head
IDLE_S = 5  # the worker closes a connection that has sent no head for so long, or was idle for longer


class Client:
    """One kept connection, made anew where it was idle for long."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connect()

    def _connect(self) -> None:
        self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used_s = time.monotonic()

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        if time.monotonic() - self._used_s > IDLE_S:
            self._connection.close()
            self._connect()
        self._connection.request(method, path, body, headers or {})
        answer = self._connection.getresponse()
        content = answer.read()
        self._used_s = time.monotonic()
        assert answer.status < 300, (answer.status, content)
        return content

    def upload(self, module: bytes) -> str:
        digest: str = json.loads(self.ask("POST", "/modules", module, {"content-type": "application/wasm"}))["digest"]
        return digest

    def job(self, body: bytes) -> dict[str, Any]:
        """Post a job and wait for its end."""
        headers = {"content-type": "application/json", "prefer": "wait=60"}
        ended: dict[str, Any] = json.loads(self.ask("POST", "/tasks", body, headers))
        assert ended["reason"] == "exit", ended
        return ended

    def service(self, body: bytes) -> str:
        """Post a service and wait until it runs: its task's id."""
        headers = {"content-type": "application/json"}
        task = json.loads(self.ask("POST", "/tasks", body, headers))
        deadline = time.monotonic() + 60
        while task["state"] != "running":
            assert task["state"] not in ("completed", "failed"), task
            assert time.monotonic() < deadline, task
            time.sleep(0.01)
            task = json.loads(self.ask("GET", f"/tasks/{task['id']}"))
        found: str = task["id"]
        return found

    def stop(self, task: str) -> None:
        """Stop a service and wait until it has ended."""
        self.ask("DELETE", f"/tasks/{task}?force=1")
        ended = json.loads(self.ask("GET", f"/tasks/{task}", headers={"prefer": "wait=60"}))
        assert ended["state"] in ("completed", "failed"), ended

    def runners(self, function: str) -> int:
        """How many a function has now."""
        found = json.loads(self.ask("GET", f"/revisions/{function}"))
        return sum(sum((revision["runners"] or {}).values()) for revision in found["revisions"])

    def stdout(self, task: str) -> bytes:
        return self.ask("GET", f"/tasks/{task}/stdout")

    def close(self) -> None:
        self._connection.close()

    @classmethod
    @contextlib.contextmanager
    def of(cls, port: int) -> Iterator[Client]:
        """One that is closed when the block is left."""
        client = cls(port)
        try:
            yield client
        finally:
            client.close()


def job_body(digest: str, **task: Any) -> bytes:
    return json.dumps({"kind": "job", "module": {"digest": digest}, **task}).encode()


@contextlib.contextmanager
def deployed(client: Client, function: str, module: bytes, handler: dict[str, str], **scale: int) -> Iterator[str]:
    """A module as the default revision of `function`, running until the block is left: the path that calls it."""
    service = {
        "kind": "service",
        "module": {"digest": client.upload(module)},
        "function": {"name": function, "revision": "r1", "default": True},
        "handler": handler,
        "scale": scale,
        "limits": {"output_bytes": OUTPUT_BYTES},
    }
    task = client.service(json.dumps(service).encode())
    yield f"/functions/{function}"
    client.stop(task)


class Node:
    """A worker's processes. `port` is where it serves."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._launcher = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        """All of them, launcher first."""
        return [self._launcher, *self._launcher.children(recursive=True)]

    def runners(self) -> list[psutil.Process]:
        """Those that were forked from the zygote."""
        return [process for process in self.processes() if _is_forked(process)]

    def own_uss_mb(self) -> float:
        """What all processes but the runners keep for themselves."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # a runner that has ended meanwhile
                total += 0 if _is_forked(process) else process.memory_full_info().uss
        return total / 1e6


def _is_forked(process: psutil.Process) -> bool:
    """Whether it is a copy of the zygote, which alone of them leads a session."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        return "runner.zygote" in " ".join(process.cmdline()) and os.getsid(process.pid) != process.pid
    return False


@contextlib.contextmanager
def node(*options: str, data_dir: Path | None = None) -> Iterator[Node]:
    """A worker that is ready, and its processes; in a directory that goes with it, unless one is given."""
    with contextlib.ExitStack() as stack:
        if data_dir is None:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="galago-bench-")))
        port = free_port()
        command = [sys.executable, "-m", "worker", "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", str(data_dir)]
        process = subprocess.Popen([*command, "--log-level", "error", *options], env=dict(os.environ))
        try:
            _await_ready(process, port)
            yield Node(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError, AssertionError), Client.of(port) as client:
            client.ask("GET", "/readyz")
            return
        assert process.poll() is None, "the worker ended while it started"
        assert time.monotonic() < deadline, "the worker did not get ready"
        time.sleep(0.005)
