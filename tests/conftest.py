"""What all tests share: who may run as root, where the shared guests are, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure; and what is found by chance is found by whoever runs the suite, or by nobody.
settings.register_profile("suite", deadline=None, derandomize=True)
# `make fuzz`: as much as there is time for, and other bytes each time.
settings.register_profile("fuzz", deadline=None, derandomize=False, max_examples=20_000)
settings.load_profile("suite")

LEAK_DEADLINE_S = 5.0
# Packages of tests that fork, open sockets or start a worker: after each of them nothing may be left.
LEAK_CHECKED = ("client", "cli", "process", "e2e", "runner", "faults", "hostile", "coordinator", "shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        skip = pytest.mark.skip(reason="needs root: uids, chroot, namespaces")
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(skip)


def open_fds() -> dict[int, str]:
    """This process's descriptors and what they are, but for the one that lists them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def child_pids() -> set[int]:
    """This process's children, zombies too."""
    pids: set[int] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that ends meanwhile hands its children to another
            pids.update(map(int, children.read_text().split()))
    return pids


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No descriptor and no child, zombie or alive, that wasn't there before the test."""
    if request.path.parent.name not in LEAK_CHECKED:
        yield
        return
    children_before = child_pids()
    fds_before = open_fds()
    yield
    deadline = time.monotonic() + LEAK_DEADLINE_S
    while True:
        children = child_pids() - children_before
        fds = {fd: what for fd, what in open_fds().items() if fd not in fds_before}
        if not children and not fds:
            return
        gc.collect()  # what is garbage and still holds a descriptor; a collection costs, so only where one seems left
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert (children, fds) == (set(), {}), "a test left children or descriptors behind"


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[str, str]]:
    """(URL, token) of one worker for all tests that ask one through the client or the command line."""
    from tests.e2e.harness import running, scratch

    token = secrets.token_hex(16)
    with scratch() as place:
        tokens = place / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"sha256:{hashlib.sha256(token.encode()).hexdigest()} read,run,call,admin\n")
        options = ("--token-file", str(tokens), "--durability", "normal", "--api-workers", "1")
        with running(place / "data", *options) as worker:
            yield worker.url, token
            assert worker.process is not None
            assert worker.process.poll() is None, f"somebody ended it: {worker.log.read_text()[-4000:]}"


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Poll a condition to a deadline: `eventually(lambda: ..., within_s=5)`."""

    def poll(condition: Callable[[], object], within_s: float = 10.0, why: str = "it did not come true") -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"within {within_s} s {why}"
            time.sleep(0.01)

    return poll
