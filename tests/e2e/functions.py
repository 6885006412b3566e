"""Functions for the tests of calls: guests that tell who answered, and clients that call all the time."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from typing import Any, Self

import httpx

from tests.e2e.harness import Worker, wait_for, wasm


def speaker(text: str) -> bytes:
    """A WAGI handler that answers with `text`, whatever it is asked."""
    answer = f"Content-Type: text/plain\n\n{text}"
    data = answer.replace("\n", "\\n")
    return wasm(
        f"""(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 16) "{data}")
        (func (export "_start") (i32.store (i32.const 0) (i32.const 16))
         (i32.store (i32.const 4) (i32.const {len(answer)}))
         (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    )


# Answers with how often its instance was called, a digit, and 8 bytes of its body; the rest it leaves unread.
SIPPER = wasm(
    """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 64) "A: 1\\n\\n0")
    (func $say (param $at i32) (param $length i32)
     (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
     (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func (export "_start")
     (i32.store8 (i32.const 70) (i32.add (i32.load8_u (i32.const 70)) (i32.const 1)))
     (call $say (i32.const 64) (i32.const 7))
     (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 8))
     (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
     (call $say (i32.const 1024) (i32.load (i32.const 16)))))"""
)

# `count` tells how often it was called in this instance; `forever`, `trap`, `burn` end badly; `add` adds; `grow` takes
# as many pages and gives what there were before.
EXPORTS = wasm(
    """(module (memory (export "memory") 1 1000) (global $calls (mut i32) (i32.const 0))
    (func (export "count") (result i32)
     (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls))
    (func (export "peek") (result i32) (local $was i32)
     (local.set $was (i32.load (i32.const 64))) (i32.store (i32.const 64) (i32.const 7)) (local.get $was))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "both") (param i64 f64) (result f64 i64) (local.get 1) (local.get 0))
    (func (export "trap") unreachable)
    (func (export "forever") (loop $again (br $again)))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
)


def deploy(
    worker: Worker, function: str, revision: str, module: bytes | str, *, default: bool = True, **service: Any
) -> dict[str, Any]:
    """Deploy a module (or one that is there, by its digest), and wait until it runs: the task. `wagi` unless told."""
    named = {"name": function, "revision": revision, "default": default}
    digest = module if isinstance(module, str) else worker.upload(module)
    task_id = worker.start_task(digest, kind="service", function=named, **{"handler": {"abi": "wagi"}, **service})
    task = worker.await_state(task_id, "running")
    if default:  # its row is written right after the one that says `running`
        defaults = f"/revisions/{function}"
        wait_for(lambda: worker.http.get(defaults).json().get("default") == revision, f"{revision} is the default")
    return task


def deploy_export(worker: Worker, function: str, export: str, **service: Any) -> dict[str, Any]:
    """An export of EXPORTS as a function."""
    return deploy(worker, function, "r1", EXPORTS, handler={"abi": "export", "export": export}, **service)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """(status, code, executed) of a call that no guest answered; the header says the same as the document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["executed"] == answer.headers["x-galago-executed"]
    return answer.status_code, document["code"], document["executed"]


class Crowd:
    """So many clients that ask one after the other, each over a kept connection, until the block is left."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(index,)) for index in range(number)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def await_more(self, answers: int) -> None:
        """So many more were answered."""
        target = self.answered() + answers
        wait_for(lambda: self.answered() >= target, f"{target} answers")

    def ask(self, connection: http.client.HTTPConnection, call: str) -> None:
        """Ask once. `call` names this one and no other."""
        raise NotImplementedError

    def broke(self, call: str, error: Exception) -> None:
        """Its connection did."""
        raise NotImplementedError

    def answered(self) -> int:
        """How many were, so far."""
        raise NotImplementedError

    def _ask_on(self, index: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            for number in itertools.count():
                if self._ended.is_set():
                    return
                call = f"c{index}-{number}"
                try:
                    self.ask(connection, call)
                except (OSError, http.client.HTTPException) as exc:
                    connection.close()
                    self.broke(call, exc)
                    time.sleep(0.01)


class Callers(Crowd):
    """They call `path`."""

    def __init__(self, worker: Worker, path: str, number: int) -> None:
        super().__init__(worker.port, number)
        self.answers: list[tuple[int, bytes]] = []
        self.broken: list[str] = []
        self._path = path

    @property
    def kinds(self) -> set[tuple[int, bytes]]:
        return set(self.answers)

    def ask(self, connection: http.client.HTTPConnection, call: str) -> None:
        connection.request("GET", self._path)
        answer = connection.getresponse()
        self.answers.append((answer.status, answer.read()))

    def broke(self, call: str, error: Exception) -> None:
        self.broken.append(repr(error))

    def answered(self) -> int:
        return len(self.answers)
