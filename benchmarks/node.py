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
from typing import Any

import psutil

from benchmarks.peers import free_port

HELLO = """(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1) (data (i32.const 8) "hello world\\n")
 (func (export "_start") (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 12))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 80)))))"""

EXPORT = """(module (func (export "hello") (result i32) (i32.const 42)))"""


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        self._connection.request(method, path, body, headers or {})
        answer = self._connection.getresponse()
        content = answer.read()
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

    def service(self, body: bytes) -> None:
        """Post a service and wait until it runs."""
        headers = {"content-type": "application/json"}
        task = json.loads(self.ask("POST", "/tasks", body, headers))
        deadline = time.monotonic() + 60
        while task["state"] != "running":
            assert task["state"] not in ("completed", "failed"), task
            assert time.monotonic() < deadline, task
            time.sleep(0.01)
            task = json.loads(self.ask("GET", f"/tasks/{task['id']}"))

    def close(self) -> None:
        self._connection.close()


def job_body(digest: str, **task: Any) -> bytes:
    return json.dumps({"kind": "job", "module": {"digest": digest}, **task}).encode()


def service_body(digest: str, function: str, handler: dict[str, str], scale: dict[str, int]) -> bytes:
    """A service that becomes the default revision of `function`."""
    return json.dumps(
        {
            "kind": "service",
            "module": {"digest": digest},
            "function": {"name": function, "revision": "r1", "default": True},
            "handler": handler,
            "scale": scale,
        }
    ).encode()


class Node:
    """A worker's processes. `port` is where it serves."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._launcher = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        """All of them, launcher first."""
        return [self._launcher, *self._launcher.children(recursive=True)]

    def runners(self) -> list[psutil.Process]:
        """Those that were forked from the zygote, which alone leads a session."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if "runner.zygote" in " ".join(process.cmdline()) and os.getsid(process.pid) != process.pid:
                    found.append(process)
        return found


@contextlib.contextmanager
def worker(*options: str) -> Iterator[int]:
    """A worker in a directory that goes with it: the port that it serves on."""
    with node(*options) as running:
        yield running.port


@contextlib.contextmanager
def node(*options: str) -> Iterator[Node]:
    """A worker in a directory that goes with it, and its processes."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="galago-bench-") as data_dir:
        command = [sys.executable, "-m", "worker", "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", data_dir]
        process = subprocess.Popen([*command, "--log-level", "warning", *options], env=dict(os.environ))
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError, AssertionError):
                    client = Client(port)
                    client.ask("GET", "/readyz")
                    client.close()
                    break
                assert process.poll() is None, "the worker ended while it started"
                assert time.monotonic() < deadline, "the worker did not get ready"
                time.sleep(0.05)
            yield Node(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
