"""Modules by URL: what coordinator and fetcher say to each other, and the process that does it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator import web as w
from tests.coordinator.fetching import DIGEST, EXPECTED, MAX_BYTES, WASM, request_for
from worker import spawn
from worker.coordinator import memfd
from worker.coordinator.fetch import Fetch
from worker.coordinator.fetch_wire import (
    MAX_ANSWER_BYTES,
    Answer,
    Fetched,
    FetchFailed,
    FetchRequest,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from worker.core.module import Extern
from worker.errors import FetchError, SpawnError


@pytest.fixture
def site() -> Iterator[w.Web]:
    with w.serving() as web:
        web.routes["/m.wasm"] = w.answer(200, WASM)
        yield web


# -- what the two sides say --------------------------------------------------------------------------------------------

REQUEST = request_for("http://127.0.0.1/")


def test_request_and_answers_survive_the_wire() -> None:
    request = request_for("http://a.example/", digest=DIGEST, file_dirs=("/srv",), ca_file="/ca.pem")
    assert request == decode_request(encode_request(request))
    function = Extern("\x01\u20ac", "func", "env", ("i32", "(ref null 3)"), ("funcref",))
    for answer in (EXPECTED, Fetched(DIGEST, 9, (function,), ()), FetchFailed("timed_out", "too late")):
        assert answer == decode_answer(encode_answer(answer), REQUEST)


def test_the_largest_interface_that_admission_passes_fits() -> None:
    name = "\x01" * 1000
    imports = tuple(Extern(name, "func", "m") for _ in range(190))
    line = encode_answer(Fetched(DIGEST, 9, imports, ()))
    assert (True, imports) == (len(line) <= MAX_ANSWER_BYTES, decode_answer(line, REQUEST).imports)  # type: ignore[union-attr]


def line(**changes: object) -> bytes:
    fields = {"digest": DIGEST, "size_bytes": 9, "imports": [], "exports": []}
    return json.dumps({**fields, **changes}).encode() + b"\n"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"{}\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        line()[:-1],
        line(digest="sha256:" + "0" * 63),
        line(digest="../../etc/passwd"),
        line(size_bytes=0),
        line(size_bytes=-1),
        line(size_bytes=MAX_BYTES + 1),
        line(size_bytes=10**400),
        line(size_bytes="9"),
        line(more=1),
        line(code="nonsense"),
        line(code=7),
        line(exports=[{"name": "a"}]),
        line(exports=[{"name": "a", "kind": "window"}]),
        line(exports=[{"name": "a" * 1025, "kind": "func"}]),
        line(exports=[{"name": "a", "kind": "func", "params": ["i32 "]}]),
        line(exports=[{"name": "a", "kind": "func", "params": "i32"}]),
        line(exports=[{"name": "a", "kind": "func"}] * 1001),
        line(imports=[{"name": "a" * 1000, "kind": "func"}] * 200),
        b'{"detail":"' + b"a" * MAX_ANSWER_BYTES + b'"}\n',
    ],
)
def test_an_answer_that_is_none_is_refused(said: bytes) -> None:
    with pytest.raises(FetchError):
        decode_answer(said, REQUEST)


def test_another_digest_than_the_one_asked_for_is_refused() -> None:
    with pytest.raises(FetchError):
        decode_answer(line(), request_for("http://127.0.0.1/", digest="sha256:" + "0" * 64))


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda text: json.dumps(text).encode() + b"\n",
        st.dictionaries(
            st.sampled_from(["code", "detail", "digest", "size_bytes", "imports", "exports"]),
            st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=3),
        ),
    )
)
def test_any_answer_is_understood_or_refused(said: bytes) -> None:
    with contextlib.suppress(FetchError):
        assert isinstance(decode_answer(said, REQUEST), FetchFailed)


# -- the process -------------------------------------------------------------------------------------------------------


class Run:
    """A fetch in its process, driven as the loop would."""

    def __init__(self, request: FetchRequest, **how: object) -> None:
        self.file_fd = memfd.create("module")
        self.fetch = Fetch(request, self.file_fd, **how)  # type: ignore[arg-type]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file_fd)

    def answer(self, within_s: float = 30.0) -> Answer:
        poll = select.poll()
        poll.register(self.fetch.fileno())
        poll.register(self.fetch.pidfd, select.POLLIN)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.fetch.kill_if_overdue(time.monotonic())
            for fd, _ in poll.poll(100):
                if fd == self.fetch.fileno():
                    if not self.fetch.on_readable():
                        poll.unregister(fd)
                elif (answer := self.fetch.on_exited()) is not None:
                    self.fetch.close()
                    return answer
        raise AssertionError("the fetcher never ended")


def test_the_process_fetches_and_ends(site: w.Web) -> None:
    with Run(request_for(site.url("/m.wasm"), digest=DIGEST)) as run:
        assert EXPECTED == run.answer()
        assert WASM == os.pread(run.file_fd, 1000, 0)


def test_the_process_says_what_was_wrong(site: w.Web) -> None:
    with Run(request_for(site.url("/nothing"))) as run:
        assert FetchFailed("bad_answer", "the server answers 404 where 200 is needed") == run.answer()


def test_a_process_that_is_killed_fails_with_why(site: w.Web) -> None:
    site.routes["/m"] = lambda connection, _: site.stopping.wait(10) and None
    with Run(request_for(site.url("/m"))) as run:
        run.fetch.kill("the task was stopped")
        run.fetch.kill("again")
        assert FetchFailed("internal", "the task was stopped") == run.answer()
    with Run(request_for(site.url("/m"))) as run:
        os.kill(run.fetch.pid, signal.SIGKILL)
        said = "the fetcher ended without a whole answer (killed by SIGKILL)"
        assert FetchFailed("internal", said) == run.answer()


def test_a_process_that_is_stopped_is_killed_when_its_time_is_over(site: w.Web) -> None:
    with Run(request_for(site.url("/m.wasm"))) as run:
        os.kill(run.fetch.pid, signal.SIGSTOP)
        run.fetch.kill_if_overdue(run.fetch.overdue_at_s - 0.1)
        assert run.fetch.on_exited() is None
        run.fetch.kill_if_overdue(run.fetch.overdue_at_s)
        assert FetchFailed("timed_out", "it took longer than 10 s (fetch_timeout_s)") == run.answer()


def impostor(code: str, *, close: bool = False) -> object:
    """Starts a program of ours in the fetcher's place; it finds the answer's pipe as `fd`."""
    head = "import os, sys; from tests.lasting import outlast; fd = int(os.environ['GALAGO_FD_ANSWER'])"
    body = f"{head}\n{code}"

    def start(program: spawn.Program) -> spawn.Process:
        return spawn.spawn(spawn.Program((sys.executable, "-c", body), env=program.env, fds=program.fds))

    return start


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.write(fd, b'garbage\\n')", "answer isn't one"),
        ("os.write(fd, b'{\"digest\"')", "without a whole answer"),
        ("os.write(fd, b'{}\\n')", "claims what can't be"),
        ("while True: os.write(fd, bytes(65536))", "answer was too long"),
        ("os.close(fd); outlast(os.getppid())", "without a whole answer (killed by SIGKILL)"),
        ("sys.exit(3)", "without a whole answer (exit code 3)"),
    ],
)
def test_a_hostile_process_costs_its_own_fetch_and_bounded_memory(code: str, said: str) -> None:
    with Run(REQUEST, start=impostor(code)) as run:
        answer = run.answer()
        held = len(run.fetch._said)
    assert isinstance(answer, FetchFailed)
    assert ("internal", True, True) == (answer.code, said in answer.detail, held <= MAX_ANSWER_BYTES + 65536), answer


def test_a_process_that_cannot_be_started_leaves_nothing() -> None:
    def fails(program: spawn.Program) -> spawn.Process:
        raise SpawnError(program.argv[0], "fork", 11, "Resource temporarily unavailable")

    fd = memfd.create("module")
    with pytest.raises(SpawnError):
        Fetch(REQUEST, fd, start=fails)
    os.close(fd)


def looked_at(site: w.Web, look: Callable[[int], object]) -> Any:
    """What `look` sees of a fetcher that has sent its request and waits for the answer."""
    seen = []

    def route(connection: socket.socket, _: bytes) -> None:
        seen.append(look(run.fetch.pid))
        connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    site.routes["/m"] = route
    with Run(request_for(site.url("/m"))) as run:
        run.answer()
    return seen[0]


def test_the_process_limits_itself_before_it_reads_anything(site: w.Web) -> None:
    limits = looked_at(site, lambda pid: Path(f"/proc/{pid}/limits").read_text())
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
    expected = {
        "Max file size": MAX_BYTES,
        "Max core file size": 0,
        "Max cpu time": 12,
        "Max open files": 32,
        "Max processes": 0,
        "Max address space": 512 * 1024 * 1024 + 2 * MAX_BYTES,
    }
    assert {name: [str(value)] * 2 for name, value in expected.items()} == {name: found[name] for name in expected}


def test_the_process_can_gain_no_privileges(site: w.Web) -> None:
    assert "NoNewPrivs:\t1" in looked_at(site, lambda pid: Path(f"/proc/{pid}/status").read_text())


@pytest.mark.root
def test_the_process_has_what_it_needs_open_and_nothing_else(site: w.Web) -> None:
    # stdio, the answer's pipe, the module's file and the connection; the request's file is closed by then.
    assert 6 == len(looked_at(site, lambda pid: os.listdir(f"/proc/{pid}/fd")))


def test_the_process_dies_with_its_parent(site: w.Web, tmp_path: Path) -> None:
    site.routes["/m"] = lambda connection, _: site.stopping.wait(20) and None
    parent = f"""
import os, sys
from worker.coordinator.fetch import Fetch
from worker.coordinator.fetch_wire import decode_request
fd = os.open({str(tmp_path / "module")!r}, os.O_RDWR | os.O_CREAT)
print(Fetch(decode_request({encode_request(request_for(site.url("/m")))!r}), fd).pid, flush=True)
sys.stdin.read()
"""
    argv, pipe = [sys.executable, "-c", parent], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=spawn.python_env()) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(pid)
        process.kill()
    assert select.select([pidfd], [], [], 10)[0] == [pidfd]
    os.close(pidfd)
