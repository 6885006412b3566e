"""Zygotes for the tests of the seal, and the artifacts that they run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runner.guest_host import wat
from tests.runner.zygote_host import AS_NOBODY, ZygoteHost, seal_memfd

HELLO = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 8) "hello\\n")
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 80)))))"""

_artifacts: dict[bytes, bytes] = {}


@pytest.fixture
def root_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory that every user can reach."""
    return reachable(tmp_path_factory)


def reachable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    for each in (directory, *directory.parents[:3]):
        if each.stat().st_uid == os.geteuid() and each.parent != Path("/"):
            each.chmod(0o755)
    return directory


@pytest.fixture
def start_zygote(root_directory: Path) -> Iterator[Callable[..., ZygoteHost]]:
    """`start_zygote(*arguments, wrapper=...)`: a zygote that is ready; nothing of it is left after the test."""
    hosts: list[ZygoteHost] = []

    def start(*arguments: str, ready: bool = True, **options: object) -> ZygoteHost:
        host = ZygoteHost(root_directory, *arguments, **options)  # type: ignore[arg-type]
        hosts.append(host)
        return host.wait_ready() if ready else host

    yield start
    for host in hosts:
        host.close()


@pytest.fixture(params=[pytest.param((), id="as_is"), pytest.param(AS_NOBODY, id="ordinary_user")])
def zygote(request: pytest.FixtureRequest, start_zygote: Callable[..., ZygoteHost]) -> ZygoteHost:
    """A zygote of this process's user, and, where that is root, one of an ordinary user too."""
    if request.param and os.geteuid() != 0:
        pytest.skip("this is an ordinary user already")
    return start_zygote(wrapper=request.param)


@pytest.fixture
def artifact(start_zygote: Callable[..., ZygoteHost]) -> Iterator[Callable[[str | bytes], int]]:
    """`artifact(wat or wasm)`: a sealed memfd with what a compiler process made of it; compiled once a session."""
    fds: list[int] = []

    def make(source: str | bytes = HELLO) -> int:
        wasm = wat(source) if isinstance(source, str) else source
        if wasm not in _artifacts:
            outcome, fd = start_zygote().compile(wasm)
            assert ("exit", "") == (outcome.reason, outcome.detail)
            _artifacts[wasm] = os.pread(fd, os.fstat(fd).st_size, 0)
            os.close(fd)
        fd = os.memfd_create("artifact", os.MFD_ALLOW_SEALING)
        os.write(fd, _artifacts[wasm])
        fds.append(seal_memfd(fd))
        return fd

    yield make
    for fd in fds:
        os.close(fd)
