"""The same guests under wasmtime's own WASI, by the wasmtime package: what ours is compared with.

In a process of its own, because that WASI starts threads and keeps descriptors for as long as a process lives.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from runner.wasi_abi import SIGNATURES

TRAPPED = "trapped"
_WAT_TYPES = {"i": "i32", "l": "i64"}


def probe_module(data: str = "") -> str:
    """A module that exports each WASI function but proc_exit under its own name; one page of memory, with `data`."""
    imports, exports = [], []
    for name, letters in SIGNATURES.items():
        if name == "proc_exit":
            continue
        params = f"(param {' '.join(_WAT_TYPES[letter] for letter in letters)})" if letters else ""
        passed = " ".join(f"(local.get {index})" for index in range(len(letters)))
        imports.append(f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {params} (result i32)))')
        exports.append(f'(func (export "{name}") {params} (result i32) (call ${name} {passed}))')
    return f'(module {" ".join(imports)} (memory (export "memory") 1) {data} {" ".join(exports)})'


class Oracle:
    """wasmtime's own WASI; every call and run gets a store of its own. `with Oracle() as oracle: ...`."""

    def __init__(self, user: int | None = None) -> None:
        """`user`: the uid and gid that guests work with, for what they may do with files is to be compared too."""
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *([] if user is None else [str(user)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate(timeout=30)

    def call(self, wasm: str, name: str, args: list[int]) -> int | str:
        """A WASI function's errno, or TRAPPED; one argument `a`, one variable `K=V`, no stdin."""
        answer: int | str = self._ask("call", wasm, name, args)
        return answer

    def run(
        self,
        wasm: bytes,
        scratch: Path,
        *,
        args: tuple[str, ...] = ("guest",),
        env: tuple[tuple[str, str], ...] = (),
        stdin: bytes = b"",
        mounts: tuple[tuple[Path, str], ...] = (),
        read_only: bool = False,
    ) -> tuple[int | str, bytes, bytes]:
        """A command's (exit code or TRAPPED, stdout, stderr). `read_only` holds for all mounts."""
        (scratch / "stdin").write_bytes(stdin)
        preopens = [(str(host), guest, not read_only) for host, guest in mounts]
        code: int | str = self._ask("run", wasm, str(scratch), args, env, preopens)
        return code, (scratch / "stdout").read_bytes(), (scratch / "stderr").read_bytes()

    def _ask(self, *question: object) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        pickle.dump(question, stdin)
        stdin.flush()
        return pickle.load(stdout)


class _Answers:
    def __init__(self) -> None:
        import wasmtime

        self._wasmtime = wasmtime
        self._engine = wasmtime.Engine()
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()
        self._modules: dict[bytes | str, Any] = {}

    def _exports(self, wasm: bytes | str, config: Any) -> tuple[Any, Any]:
        if wasm not in self._modules:
            self._modules[wasm] = self._wasmtime.Module(self._engine, wasm)
        store = self._wasmtime.Store(self._engine)
        store.set_wasi(config)
        return store, self._linker.instantiate(store, self._modules[wasm]).exports(store)

    def call(self, wasm: str, name: str, args: list[int]) -> int | str:
        config = self._wasmtime.WasiConfig()
        config.argv, config.env = ["a"], [("K", "V")]
        config.stdin_file = config.stdout_file = config.stderr_file = "/dev/null"
        store, exports = self._exports(wasm, config)
        try:
            return int(exports[name](store, *args))
        except (self._wasmtime.WasmtimeError, self._wasmtime.Trap):
            return TRAPPED

    def run(self, wasm: bytes, scratch: str, args: Any, env: Any, mounts: Any) -> int | str:
        config = self._wasmtime.WasiConfig()
        config.argv, config.env = list(args), list(env)
        config.stdin_file = f"{scratch}/stdin"
        config.stdout_file, config.stderr_file = f"{scratch}/stdout", f"{scratch}/stderr"
        for host, guest, mutable in mounts:
            config.preopen_dir(host, guest, mutable)
        store, exports = self._exports(wasm, config)
        try:
            exports["_start"](store)
        except self._wasmtime.ExitTrap as end:
            return int(end.code)
        except self._wasmtime.Trap:
            return TRAPPED
        return 0


def _serve() -> None:
    answers = _Answers()
    if user := int(sys.argv[1]) if len(sys.argv) > 1 else 0:  # now that everything is imported
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    while True:
        try:
            method, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)  # its threads would abort the interpreter's own way out
        pickle.dump(getattr(answers, method)(*arguments), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
