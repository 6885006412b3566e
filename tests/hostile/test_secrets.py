"""Whose memory holds what: secrets of the worker are in none of the processes that touch hostile bytes.

Read by root, out of /proc/PID/mem, while jobs are held in their runners, a module in its compiler and a URL in its
fetcher.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import guests
from tests.e2e.functions import deploy, speaker
from tests.e2e.harness import Worker, running, scratch, stdin_bytes, wasm

pytestmark = pytest.mark.root

CHUNK_BYTES = 1 << 20
# A secret that lies across two chunks is found in neither without this.
OVERLAP_BYTES = 128


def canary() -> str:
    return secrets.token_hex(24)


ENVIRONMENT, TOKEN = canary(), canary()
OPERATORS = {"AWS_SECRET_ACCESS_KEY": ENVIRONMENT, "GALAGO_UNKNOWN": f"x{ENVIRONMENT}"}
HASH = hashlib.sha256(TOKEN.encode()).digest()
# What each of the two held jobs was given, and a service; nobody else may have it.
JOBS = {name: {"env": canary(), "stdin": canary()} for name in ("first", "second")}
SERVICE = canary()


class Held:
    """A worker in the middle of everything, and its processes by role."""

    def __init__(self, worker: Worker, processes: dict[str, psutil.Process]) -> None:
        self.processes = processes
        self.secrets = {
            "environment": ENVIRONMENT.encode(),
            "token": TOKEN.encode(),
            "token's hash": HASH,
            "token's hash, as the file has it": HASH.hex().encode(),
            "MAC key": (worker.data_dir / "mac.key").read_bytes(),
        }
        self.secrets["service's env"] = SERVICE.encode()
        for name, given in JOBS.items():
            self.secrets |= {f"{name} job's {what}": value.encode() for what, value in given.items()}
        self._found: dict[str, set[str]] = {}

    def held_by(self, role: str) -> set[str]:
        """Read once: it takes its time, and each is held where it is."""
        if role not in self._found:
            self._found[role] = found_in(self.processes[role].pid, self.secrets)
        return self._found[role]


def found_in(pid: int, wanted: dict[str, bytes]) -> set[str]:
    """Names of what lies anywhere in the readable memory of a process."""
    found = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if area is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            found |= {name for name, value in wanted.items() if in_area(memory, area, value)}
    return found


def in_area(memory: Any, area: re.Match[str], value: bytes) -> bool:
    start, end = int(area[1], 16), int(area[2], 16)
    for at in range(start, end, CHUNK_BYTES):
        memory.seek(at)
        try:
            if value in memory.read(min(CHUNK_BYTES + OVERLAP_BYTES, end - at)):
                return True
        except OSError:
            continue  # a page behind the end of its file
    return False


def begun(worker: Worker, name: str) -> dict[str, Any]:
    given = JOBS[name]
    return worker.hold(env={"GIVEN": given["env"]}, stdin=stdin_bytes(given["stdin"].encode()))


@pytest.fixture(scope="module")
def held() -> Iterator[Held]:
    options = ("--max-runners", "3", "--fetch-allow", "127.0.0.1", "--compile-wall-s", "60")
    with scratch() as place, socket.create_server(("127.0.0.1", 0)) as silent:
        tokens = place / "tokens"
        tokens.write_text(f"sha256:{HASH.hex()} read,run\n")
        tokens.chmod(0o600)
        env = {**os.environ, **OPERATORS}
        with running(place / "data", "--token-file", str(tokens), *options, env=env) as worker:
            worker.http.headers["authorization"] = f"Bearer {TOKEN}"
            tasks = {name: begun(worker, name) for name in JOBS}
            given = {"GIVEN": SERVICE}
            service = deploy(worker, "served", "a", speaker("served"), env=given, scale={"min": 1, "max": 1})
            assert 200 == worker.http.get("/functions/served").status_code
            slow = worker.start_task(worker.upload(wasm(guests.slow_to_compile(20))))
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/m.wasm"
            fetched = worker.post(module={"url": url}).json()["id"]
            found = {name: psutil.Process(task["runner"]["pid"]) for name, task in tasks.items()}
            found |= {role: worker.one(role) for role in ("launcher", "coordinator", "zygote", "compiler")}
            jobs_pids = {task["runner"]["pid"] for task in tasks.values()}
            (found["serving"],) = [process for process in worker.role("runner") if process.pid not in jobs_pids]
            found["fetcher"] = worker.sealed_fetcher()
            found |= {f"api {number}": process for number, process in enumerate(worker.role("api"))}
            found["compiler"].send_signal(signal.SIGSTOP)  # it stays as long as it is looked into
            yield Held(worker, found)
            found["compiler"].send_signal(signal.SIGCONT)
            for task_id in (slow, fetched, service["id"], *[task["id"] for task in tasks.values()]):
                worker.order_stop(task_id, force=True)


def test_zygote_compiler_and_fetcher_hold_none(held: Held) -> None:
    assert {"zygote": set(), "compiler": set(), "fetcher": set()} == {
        role: held.held_by(role) for role in ("zygote", "compiler", "fetcher")
    }


@pytest.mark.parametrize("name", JOBS)
def test_a_runner_holds_what_its_own_task_was_given_and_no_more(held: Held, name: str) -> None:
    assert {f"{name} job's env", f"{name} job's stdin"} == held.held_by(name)


def test_a_runner_that_serves_holds_what_its_service_was_given_and_no_more(held: Held) -> None:
    assert {"service's env"} == held.held_by("serving")


def test_who_has_to_hold_them_does(held: Held) -> None:
    """Without this the search could be blind."""
    assert "environment" in held.held_by("launcher")
    assert "MAC key" in held.held_by("coordinator")
    apis = [role for role in held.processes if role.startswith("api")]
    assert all("token's hash" in held.held_by(role) for role in apis)


def test_the_mac_key_is_the_coordinators_alone_and_the_environment_the_launchers(held: Held) -> None:
    holders = {role: held.held_by(role) for role in held.processes}
    assert ["coordinator"] == [role for role, found in holders.items() if "MAC key" in found]
    assert ["launcher"] == [role for role, found in holders.items() if "environment" in found]


def test_the_environments_below_proc_hold_none(held: Held) -> None:
    """A variable that was popped stays on the stack, and in this file."""
    told = {role: Path(f"/proc/{process.pid}/environ").read_bytes() for role, process in held.processes.items()}
    values = [
        ENVIRONMENT.encode(),
        TOKEN.encode(),
        SERVICE.encode(),
        *[given["env"].encode() for given in JOBS.values()],
    ]
    assert ["launcher"] == [role for role, text in told.items() if any(value in text for value in values)]
    assert b"" == told["zygote"] == told["compiler"] == told["first"] == told["serving"]


def test_the_command_lines_hold_none(held: Held) -> None:
    lines = [" ".join(process.cmdline()) for process in held.processes.values()]
    assert [] == [line for line in lines if ENVIRONMENT in line or TOKEN in line or HASH.hex() in line]
