"""A machine that lacks seccomp or no_new_privs, or both: the worker refuses to run there, unless it is told to."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.harness import HELLO, ROOT, STOP_S, Worker, fields, running, scratch, wait_for, wasm
from tests.hostile.unsealed_worker import LACKS, UNSEALED
from worker.errors import ExitCode


@pytest.mark.parametrize("layer", LACKS)
def test_without_it_the_worker_does_not_start_and_says_what_to_do(layer: str) -> None:
    with scratch() as place:
        command = [sys.executable, UNSEALED, layer, "-m", "worker", "serve", "--bind=127.0.0.1:0"]
        command.append(f"--data-dir={place / 'data'}")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=STOP_S, check=False)
    assert ExitCode.UNSEALED == done.returncode, done.stderr
    lines = [line for line in done.stderr.splitlines() if f"the layer {layer} of the seal" in line]
    assert 1 == len(lines), done.stderr
    assert all(said in lines[0] for said in ("to get it: ", "galago-worker doctor", "--allow-unsealed")), lines


@pytest.mark.parametrize("lacking", [("seccomp",), ("no_new_privs",), ("no_new_privs", "seccomp")], ids=", ".join)
def test_told_to_it_starts_without_and_says_so(lacking: tuple[str, ...]) -> None:
    python = (sys.executable, UNSEALED, ",".join(lacking))
    with scratch() as place, running(place / "data", "--allow-unsealed", python=python) as worker:
        task = worker.run(worker.upload(wasm(HELLO)))
        assert ("completed", "exit") == fields(task, "state", "reason")
        held = worker.hold()
        seal = wait_for(lambda: stats_of(worker), "the probe has ended")
        assert "unsealed" == seal["level"]
        assert {layer: layer not in lacking for layer in LACKS} == {layer: seal["layers"][layer] for layer in LACKS}
        # Without no_new_privs an ordinary user may install no filter either: the zygote tells what its runners have.
        assert set() == set(lacking) & set(held["runner"]["layers"])
        worker.order_stop(held["id"], force=True)
        worker.await_end(held["id"])
        said = worker.log.read_text()
    assert "UNSEALED" in said
    assert f"the seal is reduced: {', '.join(lacking)} missing" in said


def stats_of(worker: Worker) -> dict[str, Any]:
    seal: dict[str, Any] = worker.http.get("/stats").json()["seal"]
    return seal if seal["level"] else {}
