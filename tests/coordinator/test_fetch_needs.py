"""Every rule of the fetcher's allow-list is needed, and by what: a real fetch without it is the fetcher's death."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.syscall_numbers import number_of
from tests.coordinator import web as w
from tests.coordinator.fetching import EXPECTED, WASM, request_for
from tests.e2e.harness import scratch
from worker import spawn
from worker.coordinator import fetch_seal
from worker.coordinator.fetch_wire import FetchFailed, decode_answer, encode_request

UID = 60_990 if os.geteuid() == 0 else 0
# The time that a server takes for its answer where the fetcher is paused meanwhile; its own limit where it is late.
SLOW_S, LATE_S = 1.0, 0.2
HTTP, TLS, UNKNOWN, DNS, FILE, LATE, PAUSED = "http", "tls", "tls of an unknown", "dns", "file", "late", "paused"
FILL, REALLOC = "fill the heap", "realloc a large block"
PLAYS = {
    FILL: "a = [bytes(600) for _ in range(20000)]",
    REALLOC: "a = bytearray(1 << 20); a.extend(bytes(1 << 22)); del a",
}
# Rule -> an operation that needs it.
NEEDED = {
    "munmap": HTTP,
    "brk": FILL,
    "mremap": REALLOC,
    "mmap": HTTP,
    "futex": TLS,
    "restart_syscall": PAUSED,
    "exit_group": HTTP,
    "rt_sigaction": HTTP,
    "rt_sigreturn": LATE,
    "setitimer": HTTP,
    "getpid": TLS,
    "uname": DNS,
    "socket": HTTP,
    "connect": HTTP,
    "getsockname": TLS,
    "getpeername": TLS,
    "getsockopt": HTTP,
    "setsockopt": DNS,
    "ioctl": HTTP,
    "poll": HTTP,
    "sendto": HTTP,
    "sendmmsg": DNS,
    "recvfrom": HTTP,
    "read": FILE,
    "write": HTTP,
    "fsync": FILE,
    "close": HTTP,
    "lseek": TLS,
    "newfstatat": FILE,
    "openat": TLS,
    "getdents64": UNKNOWN,
    "fcntl": FILE,
}
# Rule -> why it stands there though no operation needs it here and always, and the call itself, played.
JUSTIFIED = {
    "madvise": ("malloc's, where it is tuned to give pages back", 'raw("madvise", 0, 0, 4)'),
    "mprotect": ("malloc's, where the heap can't grow in place", 'raw("mprotect", 0, 0, 3)'),
    "getrandom": ("keys and query numbers, where nothing was drawn before the seal", 'raw("getrandom", 0, 0, 0)'),
    "clock_gettime": ("where the vDSO has no clock", 'raw("clock_gettime", 1, 0)'),
    "gettimeofday": ("the same", 'raw("gettimeofday", 0, 0)'),
    "time": ("the same", 'raw("time", 0)'),
    "getuid": ("secure_getenv of a libc that doesn't go by the auxiliary vector", 'raw("getuid")'),
    "geteuid": ("the same", 'raw("geteuid")'),
    "getgid": ("the same", 'raw("getgid")'),
    "getegid": ("the same", 'raw("getegid")'),
    "ppoll": ("poll where there is no poll", 'raw("ppoll", 0, 0, 1, 0, 0)'),
    "writev": ("DNS by TCP, which an answer that was cut short asks for", 'raw("writev", -1, 0, 0)'),
    "pread64": ("of a libc that reads its files so", 'raw("pread64", -1, 0, 0, 0)'),
    "fstat": ("where libc has no newer call for it", 'raw("fstat", -1, 0)'),
    "stat": ("the same", 'raw("stat", 0, 0)'),
    "lstat": ("the same", 'raw("lstat", 0, 0)'),
}
NAMES = [rule.name for rule in fetch_seal.RULES if number_of(rule.name) is not None]
Case = dict[str, Any]


@pytest.fixture(scope="module")
def cases() -> Iterator[dict[str, Case]]:
    """By the operation's name: what `needy_fetcher` is asked for."""
    with scratch() as place, w.serving() as site, w.serving(tls_context(place)) as safe:
        for web in (site, safe):
            web.routes["/m"] = w.answer(200, WASM)
        site.routes["/slow"] = slow_answer(site)
        (place / "m").write_bytes(WASM)
        (place / "m").chmod(0o644)
        named: Case = {"url": safe.url("/m", "localhost"), "fetch_allow": ("127.0.0.1", "::1")}
        asked: dict[str, Case] = {
            HTTP: {"url": site.url("/m")},
            TLS: named | {"ca_file": str(place / "server.pem")},
            UNKNOWN: named,
            DNS: {"url": "http://name.invalid/", "timeout_s": 30.0},
            FILE: {"url": f"file://{place}/m", "file_dirs": (str(place),)},
            LATE: {"url": site.url("/slow"), "timeout_s": LATE_S},
            PAUSED: {"url": site.url("/slow")},
            **{name: {"url": site.url("/m")} for name in PLAYS},
        }
        yield {name: case(PLAYS.get(name, ""), name == PAUSED, **changes) for name, changes in asked.items()}


def slow_answer(site: w.Web) -> w.Route:
    def route(connection: socket.socket, head: bytes) -> None:
        site.stopping.wait(SLOW_S)
        w.answer(200, WASM)(connection, head)

    return route


def tls_context(place: Path) -> ssl.SSLContext:
    pem = w.certificate(place, "localhost")
    pem.chmod(0o644)  # the fetcher has a uid of its own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def case(play: str = "", pause: bool = False, lacking: str = "", **changes: Any) -> Case:
    request = encode_request(request_for(uid=UID, **changes)).decode()
    return {"play": play, "pause": pause, "lacking": lacking, "request": request}


def ends_of(asked: list[Case]) -> list[tuple[int, str]]:
    """(exit code or minus the signal, answer) of each."""
    done = subprocess.run(
        spawn.python("tests.coordinator.needy_fetcher"),
        input=json.dumps(asked).encode(),
        env={**spawn.python_env(), "RES_OPTIONS": "timeout:1 attempts:1"},
        capture_output=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr.decode()
    return [(code, said) for code, said in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def lacking(cases: dict[str, Case]) -> dict[str, int]:
    """By each rule's name: how the operation ends that needs it, without it."""
    asked = [
        (cases[NEEDED[name]] if name in NEEDED else case(JUSTIFIED[name][1], url="http://127.0.0.1/"))
        | {"lacking": name}
        for name in NAMES
    ]
    return dict(zip(NAMES, [code for code, _ in ends_of(asked)], strict=True))


def test_every_rule_is_in_the_table() -> None:
    """One that isn't: find the operation that needs it, or remove the rule."""
    assert sorted(rule.name for rule in fetch_seal.RULES) == sorted([*NEEDED, *JUSTIFIED])


def test_under_the_whole_filter_nothing_dies_of_it(cases: dict[str, Case]) -> None:
    assert set(cases) == set(NEEDED.values())
    ends = dict(zip(cases, ends_of(list(cases.values())), strict=True))
    assert {name: 0 for name in cases} == {name: code for name, (code, _) in ends.items()}
    answers = {name: decode_answer(said.encode(), request_for("http://127.0.0.1/")) for name, (_, said) in ends.items()}
    assert [EXPECTED] * 4 == [answers[name] for name in (HTTP, TLS, FILE, PAUSED)]
    failures = [answers[name] for name in (UNKNOWN, DNS, LATE)]
    assert ["unreachable", "unreachable", "timed_out"] == [a.code for a in failures if isinstance(a, FetchFailed)]
    plays = [
        case(source, url="http://127.0.0.1/") for name, (_, source) in JUSTIFIED.items() if number_of(name) is not None
    ]
    assert {0} == {code for code, _ in ends_of(plays)}


@pytest.mark.parametrize("name", NAMES)
def test_without_its_rule_what_needs_it_dies(name: str, lacking: dict[str, int]) -> None:
    assert -signal.SIGSYS == lacking[name]
