"""A real worker, started as an operator would, and a client that speaks HTTP to it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import wasmtime

from tests.e2e import guests

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
STOP_S = 40.0
# Whatever is waited for comes within this, on however loaded a machine; nothing is judged by how soon.
DEADLINE_S = 60.0
# `runner_uid_first`, which the harness never changes: runners have the uids from here on, the compiler the one behind.
UID_FIRST = 60_000
FINAL = ("completed", "failed")
# What the worker's audit finds is a leak if it is still there after so long.
AUDIT_SETTLES_S, AUDIT_TIMEOUT_S = 5.0, 5.0
# What lets a job go on for as long as a test needs it: the longest time that may be asked for, and fuel to burn.
HELD_LIMITS = {"wall_ms": 30_000, "fuel": 10**15}

# The smallest command that says something, and the exports that most tests call.
HELLO = """(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1) (data (i32.const 8) "hello world\\n")
 (func (export "_start") (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 12))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 80)))))"""
EXPORTS = """(module
 (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
 (func (export "add64") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
 (func (export "half") (param f32) (result f32) (f32.div (local.get 0) (f32.const 2)))
 (func (export "divide") (param f64 f64) (result f64) (f64.div (local.get 0) (local.get 1)))
 (func (export "both") (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
 (func (export "nothing"))
 (func (export "forever") (loop $l (br $l)))
 (func (export "unreachable") unreachable))"""


def wasm(text: str) -> bytes:
    """Text format to bytes, by wasmtime's own assembler."""
    return bytes(wasmtime.wat2wasm(text))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> Any:
    """What `condition` gives once it is true of it."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return found


def alive(process: psutil.Process) -> bool:
    """A zombie is dead: who reaps the orphans of a killed launcher is the machine's matter."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def await_dead(processes: Iterable[psutil.Process], why: str) -> None:
    """All of them end by themselves."""
    processes = list(processes)
    wait_for(lambda: not [process for process in processes if alive(process)], f"dead: {why}; {processes}")


def fields(task: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Some of a task's fields, to compare at once."""
    return tuple(task[name] for name in names)


def pid_of(task: dict[str, Any]) -> int:
    """The pid of the runner that had the task last, from the task's story."""
    started = [event["detail"] for event in task["events"] if event["event"] == "runner_started"]
    found = re.fullmatch(r"pid (\d+), uid (\d+)", started[-1])
    assert found is not None, started
    return int(found[1])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that every user can enter: pytest's own are private to who runs it."""
    path = Path(tempfile.mkdtemp(prefix="galago-e2e-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Worker:
    """A running worker. `process` is its launcher."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        user: int | None = None,
        python: Sequence[str] = (sys.executable,),
        env: dict[str, str] | None = None,
    ) -> None:
        """`user`: the uid that the launcher itself runs as; `python`: what comes before `-m worker`."""
        self.data_dir = data_dir
        self.options = options
        self.user = user
        self.python = tuple(python)
        self.env = env
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = self.client()
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None

    def client(self) -> httpx.Client:
        """A client of its own, for a thread. No connection is kept: what a test leaves open is told as a leak."""
        return httpx.Client(base_url=self.url, timeout=90.0, limits=httpx.Limits(max_keepalive_connections=0))

    def start(self) -> None:
        """Start it, or start it again on the same data, and wait until it is ready."""
        if self.http.is_closed:
            self.http = self.client()
        command = [*self.python, "-m", "worker", "serve", "--bind", f"127.0.0.1:{self.port}"]
        command += ["--data-dir", str(self.data_dir), *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        self.await_ready()

    def await_ready(self, within_s: float = READY_S) -> None:
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/readyz").status_code == 200:
                    return
            assert self.process is not None
            assert self.process.poll() is None, f"the worker ended: {self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"not ready within {within_s} s: {self.log.read_text()[-4000:]}"
            time.sleep(0.02)

    @property
    def max_runners(self) -> int:
        if "--max-runners" in self.options:
            return int(self.options[self.options.index("--max-runners") + 1])
        return 4 * len(os.sched_getaffinity(0))

    def tree(self) -> list[psutil.Process]:
        """Every process of the worker, the launcher first."""
        assert self.process is not None
        try:
            launcher = psutil.Process(self.process.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def role(self, role: str) -> list[psutil.Process]:
        """The living processes of one role.

        They are launcher, coordinator, fetcher, zygote, fork (a runner or compiler), master and api; as root also
        `runner` and `compiler`, which only their uids tell apart.
        """
        return [process for process in self.tree() if role in self._roles_of(process)]

    def one(self, role: str) -> psutil.Process:
        """The only process of a role; waited for, since it may be on its way."""
        processes: list[psutil.Process] = wait_for(lambda: self.role(role), f"there is a {role}")
        assert 1 == len(processes), f"{role}: {processes}"
        return processes[0]

    def sealed_fetcher(self) -> psutil.Process:
        """The fetcher once its seal is whole: under root's worker it has its own uid then."""
        uid = UID_FIRST + self.max_runners + 1

        def sealed() -> list[psutil.Process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                return [process for process in self.role("fetcher") if process.uids().real == uid]
            return []

        found: list[psutil.Process] = wait_for(sealed, "a fetcher has sealed itself")
        return found[0]

    def _roles_of(self, process: psutil.Process) -> set[str]:
        """A process between fork and exec still looks like its parent; whose child it is tells it apart."""
        assert self.process is not None
        if process.pid == self.process.pid:
            return {"launcher"}
        try:
            command, parent = " ".join(process.cmdline()), process.parent()
            above = " ".join(parent.cmdline()) if parent is not None else ""
            uid, leads = process.uids().real, os.getsid(process.pid) == process.pid
        except (psutil.NoSuchProcess, ProcessLookupError):
            return set()
        of_launcher = parent is not None and parent.pid == self.process.pid
        if "worker.coordinator.fetcher" in command:
            return {"fetcher"}
        if "worker.coordinator" in command and of_launcher:
            return {"coordinator"}
        if "worker.api.server" in command:
            return {"master" if of_launcher else "api"}
        if "runner.zygote" not in command or "worker.coordinator" not in above:
            return set()
        if leads:
            return {"zygote"}
        return {"fork", "compiler" if uid == UID_FIRST + self.max_runners else "runner"}

    def audit(self) -> list[dict[str, str]] | None:
        """In what the worker's books and the machine differ; None: nobody answers; []: or it isn't ours to ask."""
        try:
            with httpx.Client(base_url=self.url, timeout=AUDIT_TIMEOUT_S, trust_env=False) as client:
                answer = client.get("/debug/audit")
        except httpx.TransportError:
            return None
        if answer.status_code in (401, 403):
            return []
        if answer.status_code != 200:
            return None
        found: list[dict[str, str]] = answer.json()["differences"]
        return [one for one in found if one["kind"] != "uid_foreign" or not self._is_another_workers(one["detail"])]

    def audit_settled(self) -> list[dict[str, str]]:
        """What still differs after a while: what was only on its way is over by then."""
        deadline = time.monotonic() + AUDIT_SETTLES_S
        while (found := self.audit()) != [] and time.monotonic() < deadline:
            time.sleep(0.02)
        return found or []

    @staticmethod
    def _is_another_workers(detail: str) -> bool:
        """Whether a process with a runner's uid is a runner of a worker that runs beside this one, or is gone."""
        pid = re.match(r"pid (\d+)", detail)
        assert pid is not None, detail
        try:
            parent = psutil.Process(int(pid[1])).parent()
            return parent is not None and "worker.coordinator" in " ".join(parent.cmdline())
        except psutil.NoSuchProcess:
            return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The launcher's exit code; before it is told, nothing may be amiss, and nothing of its tree may outlive it."""
        assert self.process is not None
        alive_before = self.process.poll() is None
        differences = self.audit_settled() if alive_before else []
        code = self._end(number)
        assert [] == differences
        return code

    def _end(self, number: int) -> int:
        assert self.process is not None
        tree = self.tree() if self.process.poll() is None else []
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        self.http.close()
        await_dead(tree, "processes outlived the launcher")
        return code

    def kill(self) -> None:
        """SIGKILL the launcher, which can end nobody any more."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.http.close()

    # -- the API -----------------------------------------------------------------------------------------------------

    def upload(self, module: bytes) -> str:
        answer = self.http.post("/modules", content=module, headers={"content-type": "application/wasm"})
        assert answer.status_code in (200, 201), answer.text
        digest: str = answer.json()["digest"]
        return digest

    def post(self, *, wait_s: int = 0, headers: dict[str, str] | None = None, **task: Any) -> httpx.Response:
        body = json.dumps({"kind": "job", **task})
        named = {"content-type": "application/json", **(headers or {})}
        if wait_s:
            named["prefer"] = f"wait={wait_s}"
        return self.http.post("/tasks", content=body, headers=named)

    def run(self, digest: str, **task: Any) -> dict[str, Any]:
        """Post a job and wait for its end."""
        answer = self.post(wait_s=60, module={"digest": digest}, **task)
        assert answer.status_code == 201, answer.text
        ended: dict[str, Any] = answer.json()
        assert ended["state"] in ("completed", "failed"), ended
        return ended

    def task(self, task_id: str, wait_s: int = 0) -> dict[str, Any]:
        answer = self.http.get(f"/tasks/{task_id}", headers={"prefer": f"wait={wait_s}"} if wait_s else {})
        assert answer.status_code == 200, answer.text
        known: dict[str, Any] = answer.json()
        return known

    def start_task(self, digest: str, **task: Any) -> str:
        """Post a job and don't wait; its id."""
        answer = self.post(module={"digest": digest}, **task)
        assert answer.status_code == 201, answer.text
        task_id: str = answer.json()["id"]
        return task_id

    def hold(self, export: str = "block", *params: Any, **task: Any) -> dict[str, Any]:
        """A running job of `guests.SLEEPER` that has said its first word; it ends when it is stopped, or never."""
        digest = self.upload(wasm(guests.SLEEPER))
        entry = {"export": export, "params": list(params)}
        held = self.start_running(digest, entry=entry, **{"limits": HELD_LIMITS, **task})
        self.await_output(held["id"], b"before\n")
        return held

    def await_state(self, task_id: str, *states: str) -> dict[str, Any]:
        """The task, once it is in one of the states."""
        found: dict[str, Any] = {}

        def arrived() -> bool:
            found.update(self.task(task_id))
            assert found["state"] in states or found["state"] not in FINAL, found
            return found["state"] in states

        wait_for(arrived, f"task {task_id} is {states}: {found}")
        return found

    def start_running(self, digest: str, **task: Any) -> dict[str, Any]:
        """Post a job and wait until it runs."""
        return self.await_state(self.start_task(digest, **task), "running")

    def await_end(self, task_id: str) -> dict[str, Any]:
        ended = self.task(task_id, wait_s=60)
        assert ended["state"] in FINAL, ended
        return ended

    def await_output(self, task_id: str, expected: bytes) -> None:
        """The task's stdout so far is this: its guest has come so far."""
        wait_for(lambda: self.stdout(task_id) == expected, f"{task_id} has written {expected!r}")

    def kill_runner(self, task: dict[str, Any], number: int = signal.SIGKILL) -> None:
        """A signal from outside to the runner of a running task."""
        os.kill(task["runner"]["pid"], number)

    def order_stop(self, task_id: str, force: bool = False) -> None:
        answer = self.http.delete(f"/tasks/{task_id}", params={"force": "1"} if force else {})
        assert (answer.status_code, answer.content) == (204, b""), answer.text

    def refused(self, answer: httpx.Response) -> tuple[int, str]:
        """(status, code) of a problem document."""
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        return answer.status_code, answer.json()["code"]

    def stdout(self, task_id: str) -> bytes:
        answer = self.http.get(f"/tasks/{task_id}/stdout")
        assert answer.status_code == 200, answer.text
        return answer.content


def stdin_bytes(data: bytes) -> dict[str, str]:
    """`stdin` for bytes that aren't text."""
    return {"base64": base64.b64encode(data).decode()}


def strays(worker: Worker) -> list[str]:
    """Living processes that work for this worker's data directory and aren't in its tree (any more)."""
    directory = str(worker.data_dir)
    ours = {process.pid for process in worker.tree()}
    found = []
    for process in psutil.process_iter():
        try:
            works_there = process.cwd() == directory or any(directory in word for word in process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        # One that was born after the tree was looked at is in it now.
        if works_there and process.pid not in ours and alive(process) and process not in worker.tree():
            found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found


@contextlib.contextmanager
def full(worker: Worker) -> Iterator[dict[str, Any]]:
    """The only slot of a worker is taken, until the end of the block."""
    held = worker.hold()
    try:
        yield held
    finally:
        worker.order_stop(held["id"], force=True)
        worker.await_end(held["id"])


@contextlib.contextmanager
def running(data_dir: Path, *options: str, user: int | None = None, **how: Any) -> Iterator[Worker]:
    """A worker that is stopped in order at the end, whatever happened."""
    if user is not None:
        data_dir.mkdir(mode=0o700, exist_ok=True)
        os.chown(data_dir, user, user)
    worker = Worker(data_dir, *options, user=user, **how)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
