"""`run`: a program like any other in a pipe, and nothing of its worker is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.cli.conftest import Command
from tests.e2e import guests
from tests.e2e.harness import DEADLINE_S, ROOT, await_dead, wait_for, wasm
from worker import embedded as embedding
from worker.cli import run as running
from worker.embedded import Embedded, EmbeddedFailed, embedded
from worker.errors import CommandExit, ExitCode

# Copies up to 64 bytes of its input to both outputs, then exits with the number of its arguments, itself included.
ECHO = """(module
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
 (memory (export "memory") 1)
 (func (export "_start")
  (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 64))
  (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
  (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
  (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
  (drop (call $sizes (i32.const 16) (i32.const 20)))
  (call $exit (i32.load (i32.const 16)))))"""


def place_of(process: subprocess.Popen[bytes]) -> Path:
    """The directory of the worker that a run has started."""

    def found() -> Path | None:
        for child in psutil.Process(process.pid).children():
            words = child.cmdline()
            if "--data-dir" in words:
                return Path(words[words.index("--data-dir") + 1]).parent
        return None

    place: Path = wait_for(found, "the run has started its worker")
    assert place.name.startswith(embedding.PREFIX)
    return place


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], str]:
    def make(text: str) -> str:
        path = tmp_path / "guest.wasm"
        path.write_bytes(wasm(text))
        return str(path)

    return make


@contextmanager
def started(*argv: str, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "worker", "run", *argv]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    # A shell's background job ignores SIGINT, and so would what it starts: exec keeps that, and resets a handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, cwd=ROOT, **{**pipes, **how})
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        except BaseException:
            process.kill()  # a test that has failed doesn't wait for what won't end
            raise


def test_it_is_a_program_like_any_other_and_leaves_nothing(module: Callable[[str], str]) -> None:
    with started(module(ECHO), "--one", "two") as process:
        place = place_of(process)
        out, err = process.communicate(b"in\0put\xff", timeout=DEADLINE_S)
    assert (3, b"in\0put\xff", b"in\0put\xff") == (process.returncode, out, err)
    assert not place.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(module: Callable[[str], str], number: signal.Signals) -> None:
    with started("--export", "block", module(guests.SLEEPER)) as process:
        place = place_of(process)
        assert process.stdout is not None
        assert b"before\n" == process.stdout.readline()
        workers = list(psutil.Process(process.pid).children(recursive=True))
        process.send_signal(number)
        assert 128 + number == process.wait(DEADLINE_S)
    await_dead(workers, "of a run that was told to end")
    assert not place.exists()


def test_its_death_is_its_worker_s_and_the_next_one_tidies_up(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with started("--export", "block", module(guests.SLEEPER)) as process:
        place = place_of(process)
        assert process.stdout is not None
        assert b"before\n" == process.stdout.readline()
        workers = list(psutil.Process(process.pid).children(recursive=True))
        assert len(workers) > 3
        process.kill()
    await_dead(workers, "of a run that was killed")
    assert place.exists()
    embedding._remove_leftovers(place.parent)
    assert place.exists(), "it could be one that is just being made"
    monkeypatch.setattr(embedding, "_LEFTOVER_S", 0)
    wait_for(lambda: embedding._remove_leftovers(place.parent) or not place.exists(), "it is tidied up")


@pytest.fixture(scope="module")
def own() -> Iterator[Embedded]:
    options = ["--max-wall-ms", str(running.MOST_WALL_MS), "--max-output-bytes", str(running.MOST_OUTPUT_BYTES)]
    with embedded(options) as worker:
        yield worker


@pytest.fixture
def here(plain: Command, own: Embedded, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`run` in this process, on one worker for all these tests."""

    @contextmanager
    def shared(_: Sequence[str], meanwhile: Callable[[], object]) -> Iterator[Embedded]:
        meanwhile()
        yield own

    monkeypatch.setattr(running, "embedded", shared)
    return plain


@pytest.mark.parametrize(
    ("export", "options", "code", "told"),
    [
        ("trap", (), CommandExit.TRAPPED, "galago-worker: trap: "),
        ("forever", ("--fuel", "1000"), CommandExit.TIME_UP, "galago-worker: fuel: "),
        ("forever", ("--wall-ms", "50"), CommandExit.TIME_UP, "galago-worker: deadline: "),
        ("nothing", (), CommandExit.CANT_RUN, "entry_invalid"),
    ],
)
def test_an_end_that_is_not_the_guest_s_own_is_told(
    here: Command, exports: Path, export: str, options: tuple[str, ...], code: ExitCode, told: str
) -> None:
    said = here("run", "--export", export, *options, str(exports))
    assert (code, "") == (said.code, said.out)
    assert told in said.err


def test_a_guest_that_ran_out_of_memory_ends_as_the_kernel_would_end_it(
    here: Command, module: Callable[[str], str]
) -> None:
    said = here("run", "--export", "hog", "--memory-bytes", "131072", module(guests.GROWER))
    assert (CommandExit.OUT_OF_MEMORY, True) == (said.code, said.err.startswith("galago-worker: oom_guest"))


def test_an_export_s_results_are_printed(here: Command, exports: Path) -> None:
    assert "-3\n" == here("run", "--export", "add", str(exports), "-5", "2").out


def test_what_can_not_be_run_says_why(here: Command, tmp_path: Path) -> None:
    text = tmp_path / "a.wat"
    text.write_text("(module)")
    said = here("run", str(text))
    assert (CommandExit.CANT_RUN, "") == (said.code, said.out)
    assert said.err.startswith(f"galago-worker: {text}: module_")
    assert CommandExit.NO_INPUT == here("run", str(tmp_path / "nowhere.wasm")).code


def test_a_program_that_reads_nothing_does_not_wait_for_input(
    here: Command, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert 0 == here("run", module('(module (memory (export "memory") 1) (func (export "_start")))')).code


def test_input_that_is_too_long_is_refused(
    here: Command, module: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long").write_bytes(bytes(running.MAX_STDIN_BYTES + 1))
    with (tmp_path / "long").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        said = here("run", module(ECHO))
    assert (CommandExit.CANT_RUN, True) == (said.code, "longer than 1 MiB" in said.err)


def test_a_worker_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PREFIX", f"galago-{uuid4().hex}-")
    with (
        pytest.raises(EmbeddedFailed, match="--api-workers: 'none' is not right") as caught,
        embedded(["--api-workers", "none"]),
    ):
        pass
    assert ExitCode.CONFIG == caught.value.exit_code
    assert [] == [*Path("/tmp").glob(f"{embedding.PREFIX}*"), *Path(tempfile.gettempdir()).glob(f"{embedding.PREFIX}*")]


def test_nobody_else_is_served(own: Embedded) -> None:
    from worker.client import Client, Refused

    with Client(own.url) as stranger, pytest.raises(Refused, match="unauthorized"):
        stranger.tasks()


def test_the_directory_of_a_worker_that_runs_is_no_leftover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_LEFTOVER_S", -1)
    with embedding._directory() as place:
        embedding._remove_leftovers(place.parent)
        assert place.exists()
    assert not place.exists()
