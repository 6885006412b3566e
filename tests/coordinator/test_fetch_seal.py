"""The fetcher's seal: what a fetch needs works within it, and native code played in it can do nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.seccomp import RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS, Rule, assemble
from runner.syscall_numbers import NUMBERS, number_of
from tests.coordinator import web as w
from tests.coordinator.fetching import EXPECTED, WASM, request_for
from tests.coordinator.test_fetch import Run
from tests.runner.bpf import answer as bpf_answer
from tests.runner.test_seccomp import arguments, flipped, meets
from worker import spawn
from worker.coordinator import fetch_seal
from worker.coordinator.fetch_wire import Answer, FetchFailed, encode_request
from worker.errors import CapabilityError, FetchError

UID = 60_990 if os.geteuid() == 0 else 0
PROGRAM = assemble(fetch_seal.RULES, "x86_64")
ARCH = 0xC000003E


def playing(source: str) -> Callable[[spawn.Program], spawn.Process]:
    def start(program: spawn.Program) -> spawn.Process:
        argv = spawn.python("tests.coordinator.played_fetcher")
        return spawn.spawn(dataclasses.replace(program, argv=argv, env={**program.env, "PLAY": source}))

    return start


def played(source: str, **changes: object) -> Answer:
    with Run(request_for("http://127.0.0.1/", uid=UID, **changes), start=playing(source)) as run:
        return run.answer()


# -- what a fetch needs ------------------------------------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[w.Web]:
    with w.serving() as web:
        web.routes["/m.wasm"] = w.answer(200, WASM)
        web.routes["/moved"] = w.answer(302, b"", "Location: /m.wasm")
        yield web


def sealed_fetch(url: str, env: dict[str, str] | None = None, **changes: object) -> Answer:
    def start(program: spawn.Program) -> spawn.Process:
        return spawn.spawn(dataclasses.replace(program, env={**program.env, **(env or {})}))

    with Run(request_for(url, uid=UID, **changes), start=start) as run:
        return run.answer()


@pytest.mark.parametrize("path", ["/m.wasm", "/moved"])
def test_http_and_redirects_work(site: w.Web, path: str) -> None:
    assert EXPECTED == sealed_fetch(site.url(path))


def test_names_and_tls_work(tmp_path: Path) -> None:
    pem = w.certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    for each in (pem, *pem.parents[:3]):
        each.chmod(0o755)  # the fetcher has a uid of its own
    with w.serving(context) as web:
        web.routes["/m.wasm"] = w.answer(200, WASM)
        url = web.url("/m.wasm", "localhost")
        assert EXPECTED == sealed_fetch(url, ca_file=str(pem), fetch_allow=("127.0.0.1", "::1"))
        unknown = sealed_fetch(url, fetch_allow=("127.0.0.1", "::1"))
    assert isinstance(unknown, FetchFailed)
    assert ("unreachable", True) == (unknown.code, "certificate isn't good" in unknown.detail)


def test_files_below_an_allowed_directory_can_be_fetched_though_they_are_private(tmp_path: Path) -> None:
    """They are opened before the fetcher's user is changed."""
    (tmp_path / "m.wasm").write_bytes(WASM)
    (tmp_path / "m.wasm").chmod(0o600)
    assert EXPECTED == sealed_fetch(f"file://{tmp_path}/m.wasm", file_dirs=(str(tmp_path),))


def test_a_name_is_looked_for_by_dns_within_the_seal() -> None:
    """Whether there is a name server or none: the answer is the resolver's, and nothing died over it."""
    impatient = {"RES_OPTIONS": "timeout:1 attempts:1"}
    answer = sealed_fetch("http://name.invalid/", impatient, timeout_s=30.0)
    assert isinstance(answer, FetchFailed)
    assert "name.invalid can't be resolved" in answer.detail


def test_several_addresses_are_sorted_within_the_seal() -> None:
    """libc asks the kernel for its addresses then, gets no socket for it, and goes by what connects."""
    answer = played("result = len({a[4][0] for a in socket.getaddrinfo(None, 80, type=socket.SOCK_STREAM)})")
    assert answer in (FetchFailed("bad_answer", "1"), FetchFailed("bad_answer", "2"))


# -- what it looks like from outside -----------------------------------------------------------------------------------


def status_within() -> dict[str, str]:
    """Of a fetcher that has closed its seal, from /proc."""
    seen: dict[str, str] = {}

    def route(connection: socket.socket, _: bytes) -> None:
        lines = Path(f"/proc/{run.fetch.pid}/status").read_text().splitlines()
        seen.update(line.split(":\t", 1) for line in lines if ":\t" in line)
        connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    with w.serving() as site:
        site.routes["/m"] = route
        with Run(request_for(site.url("/m"), uid=UID)) as run:
            run.answer()
    return seen


def test_it_has_a_uid_of_its_own_a_filter_and_no_capability() -> None:
    found = status_within()
    uid = UID or os.getuid()
    assert [str(uid)] * 4 == found["Uid"].split()
    assert ("2", "1") == (found["Seccomp"], found["NoNewPrivs"])
    assert {"0" * 16} == {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    if UID:
        assert ([str(uid)] * 4, []) == (found["Gid"].split(), found["Groups"].split())


# -- native code in it -------------------------------------------------------------------------------------------------

FATAL = {
    "execute": 'raw("execve", 0, 0, 0)',
    "execute by descriptor": 'raw("execveat", 3, 0, 0, 0, 0)',
    "fork": "os.fork()",
    "clone a process": 'raw("clone", 17, 0, 0, 0, 0)',
    "clone anew": 'raw("clone3", 0, 0)',
    "start a thread": "import _thread; _thread.start_new_thread(print, ())",
    "trace": 'raw("ptrace", 0, 0, 0, 0)',
    "read another's memory": 'raw("process_vm_readv", 1, 0, 0, 0, 0, 0)',
    "signal another": 'raw("kill", 1, 0)',
    "reach another by pidfd": 'raw("pidfd_open", 1, 0)',
    "bind": 'raw("bind", 3, 0, 0)',
    "listen": 'raw("listen", 3, 1)',
    "accept": 'raw("accept", 3, 0, 0)',
    "accept anew": 'raw("accept4", 3, 0, 0, 0)',
    "pass a descriptor": 'raw("sendmsg", 3, 0, 0)',
    "take a descriptor": 'raw("recvmsg", 3, 0, 0)',
    "mount": 'raw("mount", 0, 0, 0, 0, 0)',
    "a name space": 'raw("unshare", 0x10000000)',
    "chroot": 'raw("chroot", 0)',
    "another uid": 'raw("setresuid", 0, 0, 0)',
    "raise a limit": 'raw("prlimit64", 0, 7, 0, 0)',
    "be dumpable": 'raw("prctl", 4, 1, 0, 0, 0)',
    "another filter": 'raw("seccomp", 1, 0, 0)',
    "another kernel program": 'raw("bpf", 0, 0, 0)',
    "io_uring": 'raw("io_uring_setup", 1, 0)',
    "handle its page faults": 'raw("userfaultfd", 0)',
    "the kernel's keys": 'raw("keyctl", 0, 0)',
    "make memory executable": 'raw("mprotect", 0, 0, 4)',
    "make a file": 'os.open("/tmp/fetched", os.O_RDONLY | os.O_CREAT)',
    "write a file": 'os.open("/etc/hosts", os.O_WRONLY)',
    "cut a file": 'os.open("/etc/hosts", os.O_RDONLY | os.O_TRUNC)',
    "remove a file": 'raw("unlinkat", -100, 0, 0)',
    "rename a file": 'raw("renameat", -100, 0, -100, 0)',
    "get signals for a descriptor": 'raw("fcntl", 3, 8, 1)',
    "a handler for SIGSYS": 'raw("rt_sigaction", 31, 0, 0, 8)',
    "another timer": 'raw("setitimer", 1, 0, 0)',
    "a terminal's input": 'raw("ioctl", 0, 0x5412, 0)',
    "an anonymous file": 'raw("memfd_create", 0, 0)',
}
# Answered as by a kernel or a file system without it: libc asks for these too, and does without.
REFUSED = {
    "a host's service": ("socket.socket(socket.AF_UNIX)", "Errno 97"),
    "the kernel's network settings": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "Errno 97"),
    "raw packets": ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", "Errno 97"),
    "read a file that names don't need": ('os.open("/etc/passwd", os.O_RDONLY)', "Errno 13"),
    "list a directory": ('os.open("/", os.O_RDONLY)', "Errno 13"),
    "executable memory": ('raw("mmap", 0, 4096, 7, 0x22, -1, 0)', "-13"),
    "read its own memory's file": ('os.open("/proc/self/mem", os.O_RDONLY)', "Errno 13"),
}


@pytest.fixture(scope="module")
def ends() -> dict[str, tuple[int, str]]:
    """How each play ended: (exit code or minus the signal, what it left as its result)."""
    attempt = "try:\n    result = {}\nexcept OSError as exc:\n    result = exc"
    attempts = {name: attempt.format(expression) for name, (expression, _) in REFUSED.items()}
    request = encode_request(request_for("http://127.0.0.1/", uid=UID)).decode()
    env = {**spawn.python_env(), "PLAYS": json.dumps({**FATAL, **attempts}), "REQUEST": request}
    argv = spawn.python("tests.coordinator.played_fetcher")
    done = subprocess.run(argv, env=env, capture_output=True, check=True)
    return {name: (os.waitstatus_to_exitcode(status), said) for name, (status, said) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", sorted(FATAL))
def test_a_hijacked_fetcher_dies_over_it(name: str, ends: dict[str, tuple[int, str]]) -> None:
    assert (-signal.SIGSYS, "") == ends[name]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_hijacked_fetcher_is_refused(name: str, ends: dict[str, tuple[int, str]]) -> None:
    code, said = ends[name]
    assert (0, True) == (code, REFUSED[name][1] in said), said


def test_a_fetch_says_how_its_fetcher_died_and_the_next_goes_on(site: w.Web) -> None:
    died = played(FATAL["execute"])
    assert isinstance(died, FetchFailed)
    assert ("internal", True) == (died.code, "killed by SIGSYS" in died.detail), died
    assert EXPECTED == sealed_fetch(site.url("/m.wasm"))


def test_a_step_that_fails_is_an_answer_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise CapabilityError("capset failed: no")

    monkeypatch.setattr(fetch_seal.capabilities, "drop_all", refused)
    with pytest.raises(FetchError, match="the fetcher's seal failed at capabilities: capset failed: no") as failed:
        fetch_seal.close(request_for("http://127.0.0.1/"))
    assert "internal" == failed.value.code


# -- the rules as data -------------------------------------------------------------------------------------------------


def test_every_rule_has_a_reason_and_a_number() -> None:
    assert [] == [rule.name for rule in fetch_seal.RULES if len(rule.why) < 7 or rule.name not in NUMBERS]
    names = [rule.name for rule in fetch_seal.RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rule", fetch_seal.RULES, ids=lambda rule: rule.name)
def test_a_flipped_argument_is_refused(rule: Rule) -> None:
    """Each alternative as it stands is allowed; with each of its conditions flipped alone it is not."""
    number = number_of(rule.name, "x86_64")
    if number is None:
        pytest.skip("not a call of this machine")
    refused = rule.otherwise or RET_KILL_PROCESS
    for conditions in rule.alternatives or ((),):
        assert RET_ALLOW == bpf_answer(PROGRAM, number, ARCH, tuple(arguments(conditions)))
    for values in flipped(rule):
        expected = RET_ALLOW if meets(rule, values) else refused
        assert expected == bpf_answer(PROGRAM, number, ARCH, values), values


def test_what_is_refused_softly_is_refused_by_an_errno() -> None:
    soft = {rule.name for rule in fetch_seal.RULES if rule.otherwise is not None}
    assert {"mmap", "socket"} == soft
    assert all((rule.otherwise or RET_ERRNO) & 0xFFFF0000 == RET_ERRNO for rule in fetch_seal.RULES)


def test_a_file_url_opens_nothing_of_the_network_and_the_other_way_round() -> None:
    assert ("/srv",) == fetch_seal.readable(request_for("FILE:///srv/m", file_dirs=("/srv",)))
    assert "/srv" not in fetch_seal.readable(request_for("http://a.example/", file_dirs=("/srv",)))
