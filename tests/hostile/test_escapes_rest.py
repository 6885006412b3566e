"""What a guest that has escaped can do in a runner of a real worker: be killed for it, and be told of truthfully.

The table is that of `tests/runner/test_escapes.py`, which holds one runner alone; here the whole worker stands around
it: the task says SIGSYS, its processes are the same as before, and an ordinary job runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import alive, fields
from tests.hostile.playing import Playing, playing
from tests.runner.test_escapes import ESCAPES

X86 = os.uname().machine == "x86_64"
# Calls that the product doesn't name: their numbers on x86-64 and on aarch64.
UNNAMED = {
    "add_key": (248, 217),
    "clock_settime": (227, 112),
    "fanotify_init": (300, 262),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "kexec_load": (246, 104),
    "mq_open": (240, 180),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "pkey_mprotect": (329, 288),
    "process_vm_writev": (311, 271),
    "reboot": (169, 142),
    "sched_setscheduler": (144, 119),
    "sendfile": (40, 71),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "shmget": (29, 194),
    "socketpair": (53, 199),
    "splice": (275, 76),
    "sysinfo": (99, 179),
    "syslog": (103, 116),
    "timer_create": (222, 107),
}
# Beyond that table: what only a whole worker has to offer. Signal 0 hurts nobody, should the filter ever fail.
MORE = {
    "all who may be signalled": 'raw("kill", -1, 0)',
    "its process group": 'raw("kill", 0, 0)',
    "the coordinator": 'raw("kill", {coordinator}, 0)',
    "the coordinator's thread": 'raw("tgkill", {coordinator}, {coordinator}, 0)',
    "the zygote": 'raw("kill", {zygote}, 0)',
    "trace the coordinator": 'raw("ptrace", 16, {coordinator}, 0, 0)',
    "the coordinator's memory": 'raw("process_vm_writev", {coordinator}, 0, 0, 0, 0, 0)',
    "the coordinator's descriptors": 'raw("pidfd_getfd", 4, 5, 0)',
    "the coordinator's priority": 'raw("setpriority", 0, {coordinator}, 0)',
    "its own priority": 'raw("sched_setscheduler", 0, 1, 0)',
    "who it is": 'raw("getpid")',
    "who its parent is": "os.getppid()",
    "which user it is": "os.getuid()",
    "which machine it is on": "os.uname()",
    "what the machine does": 'raw("sysinfo", 0)',
    "the kernel's log": 'raw("syslog", 3, 0, 0)',
    "a pipe": "os.pipe()",
    "a terminal": 'raw("ioctl", 4, 0x5412, 0)',  # TIOCSTI
    "flags of a descriptor": 'raw("fcntl", 4, 8, 1)',  # F_SETOWN
    "wait on descriptors": 'raw("ppoll", 0, 0, 0, 0, 0)',
    "an epoll": 'raw("epoll_create1", 0)',
    "an eventfd": 'raw("eventfd2", 0, 0)',
    "a socket pair": 'raw("socketpair", 1, 1, 0, 0)',
    "receive on status": 'raw("recvmsg", 4, 0, 0)',
    "read stdout back": 'raw("pread64", 5, 0, 0, 0)',
    "write into stdin": 'raw("write", 7, 0, 0)',
    "copy between descriptors": 'raw("splice", 4, 0, 5, 0, 0, 0)',
    "send a file": 'raw("sendfile", 4, 5, 0, 0)',
    "a larger output": 'raw("ftruncate", 5, 1 << 40)',
    "shared memory of old": 'raw("shmget", 0, 4096, 0o1600)',
    "a message queue": 'raw("mq_open", 0, 0, 0, 0)',
    "another protection key": 'raw("pkey_mprotect", 0, 0, 4, 0)',
    "an io_uring's enter": 'raw("io_uring_enter", 3, 1, 1, 0, 0, 0)',
    "a key": 'raw("add_key", 0, 0, 0, 0, 0)',
    "performance events": 'raw("perf_event_open", 0, 0, 0, 0, 0)',
    "a kernel module": 'raw("init_module", 0, 0, 0)',
    "another kernel": 'raw("kexec_load", 0, 0, 0, 0)',
    "a reboot": 'raw("reboot", 0, 0, 0, 0)',
    "another's name space": 'raw("setns", 3, 0)',
    "another root": 'raw("pivot_root", 0, 0)',
    "the new way to mount": 'raw("fsopen", 0, 0)',
    "a tree to mount": 'raw("open_tree", -100, 0, 0)',
    "capabilities": 'raw("capset", 0, 0)',
    "a handle to open": 'raw("open_by_handle_at", 3, 0, 0)',
    "the watch of a file": 'raw("fanotify_init", 0, 0)',
    "time of its own": 'raw("clock_settime", 0, 0)',
    "a timer of its own": 'raw("timer_create", 0, 0, 0)',
    "sleep": "import time; time.sleep(0)",
    "to stop being killed with its parent": 'raw("prctl", 1, 0, 0, 0, 0)',
    "speculation": 'raw("prctl", 53, 0, 0, 0, 0)',
    "a call that there is none of": "raw_number(9999)",
    "a call below all": "raw_number(-1)",
}
ENTRIES = {
    "the 32-bit entry": "enter_32_bit()",
    "the x32 entry": "raw_number(0x40000000 | 1, 4, 0, 0)",
    "the x32 entry's own calls": "raw_number(0x40000000 | 520, 0, 0, 0)",  # execve
}
# What is undone within a call: the filter sees the flag among others that are allowed.
MIXED = {
    "executable among the protections": 'raw("mprotect", 0, 0, 7)',
    "executable alone": 'raw("mmap", 0, 4096, 4, 0x22, -1, 0)',
    "shared and validated": 'raw("mmap", 0, 4096, 3, 0x23, -1, 0)',
    "a futex of priorities": 'raw("futex", 0, 0x86, 0, 0, 0, 0)',
    "a futex that moves waiters": 'raw("futex", 0, 3, 0, 0, 0, 0)',
    "memory that others see": 'raw("madvise", 0, 0, 12)',
    "a handler for SIGALRM": 'raw("rt_sigaction", 14, 0, 0, 8)',
    "a message taken while waiting": 'raw("recvfrom", 3, 0, 0, 0, 0, 0)',
}
TABLES = {**ESCAPES, **MORE, **MIXED, **(ENTRIES if X86 else {})}


@pytest.fixture(scope="module")
def place_of_escapes() -> Iterator[Playing]:
    with playing("--max-runners", "2", volume=True) as ready:
        yield ready


@pytest.fixture
def escaped(place_of_escapes: Playing) -> Iterator[Playing]:
    """After each case the same processes are there, nothing is left, and an ordinary job completes."""
    yield place_of_escapes
    place_of_escapes.await_ordinary()


def died_by_sigsys(task: dict[str, Any]) -> None:
    assert ("failed", "crashed", "SIGSYS", "the runner died by SIGSYS") == fields(
        task, "state", "reason", "signal", "detail"
    ), task
    assert ("running", None) == fields(task, "previous_state", "exit_code"), task


def source_of(name: str, escaped: Playing) -> str:
    source = TABLES[name].replace("{coordinator}", str(escaped.coordinator.pid))
    source = source.replace("{zygote}", str(escaped.zygote.pid))
    for call, numbers in UNNAMED.items():
        source = source.replace(f'raw("{call}"', f"raw_number({numbers[0 if X86 else 1]}")
    return source


@pytest.mark.parametrize("name", TABLES)
def test_an_escape_ends_its_runner_alone(name: str, escaped: Playing) -> None:
    died_by_sigsys(escaped.play(source_of(name, escaped)))


# What a runner with mounts may do, for its guest has files; Landlock, its uid and its root hold what comes of it.
FILES_MAY = {
    *("read a file", "read a file by its directory", "a larger output", "read stdout back", "close status"),
    *("write to control", "write into stdin", "write to the module's image"),
    # The engine serves files from threads, which wait on these; `clone3` is answered as by a kernel without it.
    *("clone a thread", "start a thread", "clone anew", "an epoll", "an eventfd"),
}


@pytest.mark.root
def test_with_a_mount_the_same_ends_its_runner_but_for_what_files_need(escaped: Playing) -> None:
    assert FILES_MAY == outlived(escaped, mounts=[{"volume": "v", "path": ".", "guest": "/v", "mode": "rw"}])


def test_all_of_them_at_once_end_their_runners_and_nobody_else(escaped: Playing) -> None:
    """Each by itself is above; `tests/test_as_ordinary_user.py` has this one alone."""
    assert set() == outlived(escaped)


def outlived(escaped: Playing, **task: Any) -> set[str]:
    """Which of all escapes, tried by many runners at a time, did not end as they have to."""
    ids = {name: escaped.start(source_of(name, escaped), **task) for name in TABLES}
    ends = {name: fields(escaped.worker.await_end(task_id), "reason", "signal") for name, task_id in ids.items()}
    return {name for name, end in ends.items() if end != ("crashed", "SIGSYS")}


def test_no_table_hides_a_case_of_another() -> None:
    assert len(TABLES) == len(ESCAPES) + len(MORE) + len(MIXED) + (len(ENTRIES) if X86 else 0)
    assert len(set(TABLES.values())) == len(TABLES)


def test_an_escape_before_it_said_started_is_told_as_one(escaped: Playing) -> None:
    task = escaped.play('raw("execve", 0, 0, 0)', early=True)
    assert ("crashed", "SIGSYS", "scheduled") == fields(task, "reason", "signal", "previous_state"), task


def test_an_escape_of_a_warm_runner_costs_its_own_job_and_not_the_next(escaped: Playing) -> None:
    warm = {"isolation": "instance"}
    assert "completed" == escaped.play("result = 1", **warm)["state"]
    died_by_sigsys(escaped.play("os.fork()", **warm))
    assert ("completed", "2") == fields(escaped.play("result = 2", **warm), "state", "detail")
    died_by_sigsys(escaped.play("os.fork()", **warm))


def test_an_escape_after_its_outcome_takes_the_outcome_along(escaped: Playing) -> None:
    """What a process says that then breaks the seal is worth nothing."""
    task = escaped.play('say(outcome(exit_code=0) + frame(5)); raw("socket", 2, 1, 0)')
    died_by_sigsys(task)


def test_an_escape_that_says_it_was_well_behaved_is_told_as_it_was(escaped: Playing) -> None:
    task = escaped.play('say(outcome(detail="nothing happened")); os.fork()')
    died_by_sigsys(task)
    assert "nothing happened" not in (task["detail"] or "")


def test_many_that_escape_at_once_are_all_told(escaped: Playing) -> None:
    ids = [escaped.start('raw("bpf", 0, 0, 0)') for _ in range(12)]
    for task_id in ids:
        died_by_sigsys(escaped.worker.await_end(task_id))
    assert alive(escaped.coordinator)
