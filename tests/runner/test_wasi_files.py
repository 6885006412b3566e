"""The engine's own WASI, for jobs with mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.build import guest
from tests.runner.files_host import run_with_files
from tests.runner.guest_host import Host
from tests.runner.wasi_oracle import Oracle


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle() as one:
        yield one


def test_files_of_a_mount_work_as_under_wasmtimes_own(oracle: Oracle, tmp_path: Path) -> None:
    wasm = guest("files")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    (theirs / "mounted").mkdir(parents=True)
    ours.mkdir()
    code, stdout, _ = oracle.run(wasm, theirs, args=("files", "/data"), mounts=((theirs / "mounted", "/data"),))
    result = run_with_files(wasm, ours, args=(b"files", b"/data"))
    assert (code, stdout.decode()) == (result.outcome.exit_code, result.stdout.decode())
    assert b"create 0\nwrite 0\n" in result.stdout
    assert b"through 0" not in result.stdout
    assert [] == list((ours / "mounted").iterdir())


def test_a_read_only_mount_can_be_read_and_not_written(tmp_path: Path) -> None:
    result = run_with_files(guest("files"), tmp_path, args=(b"files", b"/data"), read_only=True)
    assert result.stdout.startswith(b"create ")
    assert b"create 0" not in result.stdout
    assert [] == list((tmp_path / "mounted").iterdir())


def test_a_mount_that_is_not_there_is_a_failed_start(host: Host) -> None:
    result = host.run(guest("echo"), preopens=((b"/nowhere/at/all", b"/data", True),))
    assert ("init_failed", "the mount '/data' can't be opened") == (result.reason, result.outcome.detail)


def test_output_past_the_cap_is_cut_under_the_engines_own_wasi_too(tmp_path: Path) -> None:
    result = run_with_files(guest("cat"), tmp_path, stdin=b"x" * 5000, output_bytes=1000)
    assert ("output_limit", True, False) == (
        result.reason,
        result.outcome.stdout_truncated,
        result.outcome.stderr_truncated,
    )
    assert b"x" * 1000 == result.stdout


def test_an_exit_code_over_125_is_an_exit_code_under_both(host: Host, tmp_path: Path) -> None:
    for result in (
        host.run(guest("exit"), args=(b"exit", b"200")),
        run_with_files(guest("exit"), tmp_path, args=(b"exit", b"200")),
    ):
        assert ("nonzero_exit", 200) == (result.reason, result.outcome.exit_code)
