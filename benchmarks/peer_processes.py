"""What a Python user would write instead: wasmtime in this process, or in the processes of a pool; and bare forks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from time import perf_counter

import wasmtime

FUEL = 10**9
WAITING = 2  # jobs that wait for each process of the pool, so that none is ever idle


class InProcess:
    """wasmtime-py's own loop: a store and an instance a call, with fuel and epoch, and nothing around it."""

    def __init__(self, module: bytes) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        config.epoch_interruption = True
        self._engine = wasmtime.Engine(config)
        self._module = wasmtime.Module(self._engine, module)
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()

    def call(self, export: str) -> object:
        """What the export returns, from a fresh instance."""
        store = self._store()
        function = self._linker.instantiate(store, self._module).exports(store)[export]
        assert isinstance(function, wasmtime.Func)
        return function(store)

    def command(self) -> bytes:
        """stdout of the module's `_start`, in a fresh instance; through a file, the only way wasmtime-py has."""
        store = self._store()
        wasi = wasmtime.WasiConfig()
        with tempfile.NamedTemporaryFile(prefix="galago-bench-") as out:
            wasi.stdout_file = out.name
            store.set_wasi(wasi)
            start = self._linker.instantiate(store, self._module).exports(store)["_start"]
            assert isinstance(start, wasmtime.Func)
            start(store)
            return out.read()

    def _store(self) -> wasmtime.Store:
        store = wasmtime.Store(self._engine)
        store.set_fuel(FUEL)
        store.set_epoch_deadline(1)
        return store


_mine: InProcess  # of each process of the pool


def _prepare(module: bytes) -> None:
    global _mine
    _mine = InProcess(module)


def _job(_number: int) -> bytes:
    return _mine.command()


class Pool:
    """`concurrent.futures` with wasmtime in each process: no seal, no record, and one job's crash breaks it for all."""

    def __init__(self, executor: ProcessPoolExecutor, size: int) -> None:
        self._executor = executor
        self._size = size

    def job(self) -> bytes:
        """One job's stdout."""
        return self._executor.submit(_job, 0).result()

    def rate(self, seconds: float) -> float:
        """Jobs a second with every process busy; each output is looked at."""
        done, started = 0, perf_counter()
        pending = {self._executor.submit(_job, number) for number in range(self._size * (1 + WAITING))}
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                assert future.result() == b"hello world\n"
                done += 1
                if perf_counter() - started < seconds:
                    pending.add(self._executor.submit(_job, 0))
        return done / (perf_counter() - started)


@contextlib.contextmanager
def pool(module: bytes, size: int) -> Iterator[Pool]:
    """So many processes, each with the module compiled; spawned, because a fork of wasmtime's threads may hang."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, mp_context=context, initializer=_prepare, initargs=(module,)) as executor:
        made = Pool(executor, size)
        made.job()
        yield made


def fork_and_exec() -> None:
    """The least that a process of its own costs: `true`."""
    subprocess.run([shutil.which("true") or "/bin/true"], check=True, close_fds=False)


def bare_fork() -> None:
    """The least that a copy of this process costs."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0
