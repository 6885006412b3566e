"""A started launcher with all its processes, found by a mark in their environment: what has one can't hide.

No test waits for a fixed time: everything is polled to a deadline.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0
NOBODY = 65534
# What the launcher's log calls its children.
NAMES = {"coordinator": "coordinator", "master": "gunicorn"}

# What systemd does for a socket unit (sd_listen_fds(3)).
ACTIVATE = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", TOLD_PORT=str(listener.getsockname()[1]))
os.execv(sys.executable, [sys.executable, "-m", "tests.process.launch", *sys.argv[1:]])
"""


def wait_for(condition: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> Any:
    """What `condition` gives once it is true of it."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return found


class Launched:
    """One worker under test.

    Args:
        user: the uid that the launcher itself runs as.
        activated: it gets its listener as from systemd.
    """

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        user: int | None = None,
        python: str = sys.executable,
        activated: bool = False,
        **env: str,
    ) -> None:
        self.data_dir = data_dir
        self.mark = uuid.uuid4().hex
        self.log = data_dir.parent / f"{self.mark}.log"
        command = [python, *(("-c", ACTIVATE) if activated else ("-m", "tests.process.launch"))]
        command += ["--data-dir", str(data_dir)]
        command += ["--bind", "127.0.0.1:0", *options]
        passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {**passed, "LANG": "C.UTF-8", "FAKE_MARK": self.mark, "FAKE_TESTER": str(os.getpid()), **env}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    def marked(self) -> dict[int, str]:
        """Every living process of this worker: pid to command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if f"FAKE_MARK={self.mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def pids(self, kind: str) -> list[int]:
        """The living processes of one kind."""
        launcher = self.process.pid
        marked = self.marked()
        match kind:
            case "launcher":
                return [launcher] if launcher in marked else []
            case "coordinator":
                return [pid for pid, command in marked.items() if "fake_coordinator" in command]
            case "sleeper":
                return [pid for pid, command in marked.items() if "pidfd_open" in command]
            case "master":
                return [pid for pid in self._api(marked) if parent_of(pid) == launcher]
            case "worker":
                return [pid for pid in self._api(marked) if parent_of(pid) != launcher]
        raise ValueError(kind)

    @staticmethod
    def _api(marked: dict[int, str]) -> list[int]:
        return [pid for pid, command in marked.items() if "stub_api" in command]

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int((self.data_dir / "run" / "url").read_text().split()[0].rpartition(":")[2])

    def get(self, path: str = "/", timeout_s: float = 10.0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def serves(self) -> bool:
        try:
            return self.get("/readyz", 2.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def await_serving(self) -> None:
        def serving_or_ended() -> bool:
            assert self.process.poll() is None, self.text()
            return self.serves()

        wait_for(serving_or_ended, "the worker serves")

    def await_whole(self, api_workers: int = 2) -> None:
        """All processes are there, each kind in its number, serve, and have said that they are ready."""
        self.await_serving()
        wait_for(self._all_ready, f"all are ready: {self.text()}")
        expected = {"launcher": 1, "coordinator": 1, "sleeper": 1, "master": 1, "worker": api_workers}
        wait_for(lambda: {kind: len(self.pids(kind)) for kind in expected} == expected, "every process is there")

    def _all_ready(self) -> bool:
        text = self.text()
        return all(text.rfind(f"{name} is ready") > text.rfind(f"{name} started") for name in NAMES.values())

    def end(self, kind: str, number: int) -> int:
        """Send a signal that ends one process of a kind sooner or later; once it was replaced, its pid."""
        pid = self.pids(kind)[0]
        started = f"{NAMES.get(kind, '')} started"
        starts = self.text().count(started)
        os.kill(pid, number)
        wait_for(lambda: pid not in self.marked(), f"the {kind} is gone")
        if kind in NAMES:  # what its dying children still answer isn't its successor's
            wait_for(lambda: self.text().count(started) > starts, f"the {kind} is started again")
        self.await_whole()
        return pid

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "run" / "fake.json").read_text())
        return found

    def stop(self, number: int = signal.SIGTERM, within_s: float = DEADLINE_S) -> int:
        """Signal the launcher; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def await_nothing(self) -> None:
        wait_for(lambda: not self.marked(), f"no process is left of {self.mark}: {self.marked()}")

    def destroy(self) -> None:
        """For the end of a test, however it went: SIGKILL, and everything must be gone by itself."""
        if self.process.poll() is None:
            for pid in self.marked():
                if parent_of(pid) == self.process.pid:
                    _kill(pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.await_nothing()


CGROUP_LIMITS = ("memory.max", "memory.swap.max", "pids.max")


def cgroup_tree(path: Path) -> Path:
    """What the kernel would show of a delegated cgroup, as ordinary files: they keep what was last written."""
    for directory in (path, path / "worker", path / "runners"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.procs").touch()
    (path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (path / "cgroup.subtree_control").touch()
    for name in CGROUP_LIMITS:
        (path / "runners" / name).touch()
    return path


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
