"""What a runner says on its status pipe is hostile: whatever it is, it costs that runner and its task alone.

The frames are sent by real sealed runners of a real worker (`playing`). After each case the same coordinator and zygote
run an ordinary job, and nothing is left of the hostile one: the fixture sees to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import fields, pid_of
from tests.hostile.playing import Playing, playing

MIB = 1 << 20
INIT_MS = 1500
MOUNTS = [{"volume": "v", "path": ".", "guest": "/v", "mode": "rw"}]
BROKE = "the runner broke its protocol and was killed: "
NO_WORD = "the runner ended with status {} and no word of how its job went"
# A runner that was told to say nothing more stays: it has to be ended by the worker.
STAY = "; hold()"


@pytest.fixture(scope="module")
def place_of_frames() -> Iterator[Playing]:
    with playing("--max-runners", "3", "--init-ms", str(INIT_MS), "--stop-grace-ms", "200", volume=True) as ready:
        yield ready


@pytest.fixture
def hostile(place_of_frames: Playing) -> Iterator[Playing]:
    """After each case the same processes are there, nothing is left, and an ordinary job completes."""
    yield place_of_frames
    place_of_frames.await_ordinary()


def crashed(task: dict[str, Any], detail: str, signal: str | None = "SIGKILL") -> None:
    """The task tells that its runner was at fault, and how."""
    assert ("failed", "crashed", signal) == fields(task, "state", "reason", "signal"), task
    assert task["detail"].startswith(detail), task["detail"]


# While the guest would run, STARTED being said: what is sent, and what the task then tells of it.
GARBAGE = {
    "bytes that are no frame": (r'say(b"\xff" * 64)', r"a frame starts with b'gR' and version 1, not b'\xff\xff'"),
    "zeros": ("say(bytes(8))", r"a frame starts with b'gR' and version 1, not b'\x00\x00' and 0"),
    "a text": ('say(b"GET / HTTP/1.1")', "a frame starts with b'gR' and version 1, not b'GE'"),
    "another magic": ('say(frame(4, magic=b"gr"))', "a frame starts with b'gR' and version 1, not b'gr' and 1"),
    "another version": ("say(frame(4, version=2))", "a frame starts with b'gR' and version 1, not b'gR' and 2"),
    "a kind that is none": ("say(frame(99))", "99 can't follow STARTED"),
    "the kind before the first": ("say(frame(0))", "0 can't follow STARTED"),
    "a length of 4 GiB": ('say(head(b"gR", 1, 4, 2**32 - 1))', "a frame's payload is at most 16384 bytes"),
    "a length of one too many": ('say(head(b"gR", 1, 4, 16385))', "a frame's payload is at most 16384 bytes"),
    "HELLO again": ("say(frame(1))", "HELLO can't follow STARTED"),
    "READY again": ("say(frame(2, bytes(16)))", "READY can't follow STARTED"),
    "STARTED again": ("say(status.encode_started(job.job_id))", "STARTED can't follow STARTED"),
    "BYE without an outcome": ("say(frame(5))", "BYE can't follow STARTED"),
    "OUTCOME again": ("say(outcome() * 2)", "OUTCOME can't follow OUTCOME"),
    "a frame after BYE": ("say(outcome() + frame(5) + frame(1))", "HELLO can't follow BYE"),
    "BYE again": ("say(outcome() + frame(5) * 2)", "BYE can't follow BYE"),
    "BYE with a payload": ('say(outcome() + frame(5, b"x"))', "BYE has no payload, this announces 1 bytes"),
    "STARTED of a next job": (
        "say(outcome() + status.encode_started(job.job_id + 1))",
        "STARTED for job {next} out of turn; it was given {job}",
    ),
    "an outcome of another's job": (
        'say(status.encode_outcome(Outcome(job.job_id + 1, "exit")))',
        "OUTCOME for job {next} out of turn; it was given {job}",
    ),
    "an outcome of no job": (
        'say(status.encode_outcome(Outcome(0, "init_failed")))',
        "OUTCOME for job 0 out of turn; it was given {job}",
    ),
    "a stop that nobody ordered": ('say(outcome("stopped"))', "OUTCOME says stopped, and nobody asked for it"),
    "an exit that is none": ("say(outcome(exit_code=3))", "OUTCOME says exit with code 3, which is a nonzero_exit"),
    "a nonzero zero": ('say(outcome("nonzero_exit", exit_code=0))', "OUTCOME says nonzero_exit with code 0"),
    "a compiler's end": (
        'say(outcome("compile_failed"))',
        "OUTCOME says compile_failed, which a running job can't end with",
    ),
    "an empty outcome": ("say(frame(4))", "OUTCOME has at least"),
    "an outcome that is cut short": ("say(frame(4, outcome()[8:-1]))", "OUTCOME has at least"),
    "an outcome with more than it announces": ('say(frame(4, outcome()[8:] + b"x"))', "OUTCOME announces"),
    "results that aren't there": (
        "body = bytearray(outcome()[8:]); body[-4:-2] = bytes((255, 255)); say(frame(4, bytes(body)))",
        "OUTCOME announces",
    ),
    "a detail that isn't there": (
        "body = bytearray(outcome()[8:]); body[-2:] = bytes((255, 255)); say(frame(4, bytes(body)))",
        "OUTCOME announces",
    ),
    "a reason that is none": (
        "body = bytearray(outcome()[8:]); body[8] = 200; say(frame(4, bytes(body)))",
        "OUTCOME's reason is below 11, this is 200",
    ),
    "a trap that is none": (
        "body = bytearray(outcome()[8:]); body[9] = 200; say(frame(4, bytes(body)))",
        "OUTCOME's trap code is below",
    ),
    "a result of no type": (
        "say(outcome(results=((9, 1),)))",
        "OUTCOME has a value that is neither i32, i64, f32 nor f64",
    ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_runner_dies_that_sends(name: str, hostile: Playing) -> None:
    source, told = GARBAGE[name]
    task = hostile.play("result = 1; " + source + STAY)
    number = int(task["detail"].rpartition("given ")[2]) if "{job}" in told else 0
    crashed(task, BROKE + told.format(job=number, next=number + 1))


# Before STARTED, READY being said.
EARLY = {
    "READY again": ("say(frame(2, bytes(16)))", "READY can't follow READY"),
    "an outcome before its start": ("say(outcome())", "OUTCOME can't follow READY"),
    "the start of another's job": (
        "say(status.encode_started(job.job_id + 1))",
        "STARTED for job {next} out of turn; it was given {job}",
    ),
    "the start of no job": ("say(status.encode_started(0))", "STARTED for job 0 out of turn; it was given {job}"),
    "a start that is too long": ("say(frame(3, bytes(9)))", "STARTED has 8 bytes, this has 9"),
}


@pytest.mark.parametrize("name", EARLY)
def test_a_runner_dies_that_sends_early(name: str, hostile: Playing) -> None:
    source, told = EARLY[name]
    task = hostile.play(source + STAY, early=True)
    number = int(task["detail"].rpartition("given ")[2]) if "{job}" in told else 0
    crashed(task, BROKE + told.format(job=number, next=number + 1))
    assert "scheduled" == task["previous_state"]


# It ends by itself, and what it said was no end of a job.
ENDS = {
    "without a word": ("os._exit(0)", NO_WORD.format(0), None),
    "within a frame's head": ('say(b"gR\\1"); os._exit(0)', NO_WORD.format(0), None),
    "within a frame": ("say(outcome()[:-1]); os._exit(3)", NO_WORD.format(3), None),
    "after its outcome, without BYE": ("say(outcome()); os._exit(0)", NO_WORD.format(0), None),
    "by a signal after all was said": (
        "say(outcome() + frame(5)); ctypes.string_at(0)",
        "the runner died by SIGSEGV",
        "SIGSEGV",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_runner_that_ends(name: str, hostile: Playing) -> None:
    source, told, signal = ENDS[name]
    task = hostile.play(source)
    crashed(task, told, signal)


def test_a_runner_that_says_bye_before_it_began(hostile: Playing) -> None:
    crashed(hostile.play("say(frame(5)); os._exit(0)", early=True), NO_WORD.format(0), None)


FLOODS = {
    "after garbage": "say(b'x'); block = bytes(65536)",
    "of garbage": "block = b'\\xff' * MIB",
    "of frames": "block = frame(5) * 100_000",
    "of outcomes": "say(outcome()); block = outcome(detail='d' * 4000, results=((1, 1),) * 1000) * 64",
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_makes_nobody_larger(name: str, hostile: Playing) -> None:
    """It writes as fast as it can till it is killed; the coordinator reads no more than a pipe's worth at a time."""
    hostile.await_ordinary()
    before = hostile.rss_bytes()
    task = hostile.play(f"MIB = 1 << 20\n{FLOODS[name]}\nwhile True: say(block)")
    crashed(task, BROKE)
    hostile.await_ordinary()
    assert hostile.rss_bytes() - before < 8 * MIB


def test_a_flood_that_is_never_killed_for_it_makes_nobody_larger(hostile: Playing) -> None:
    """Frames are only counted when they are whole: a pipe that is full of an unfinished one stays within its bounds."""
    before = hostile.rss_bytes()
    task = hostile.play('say(head(b"gR", 1, 4, 16384) + bytes(16383)); hold()', limits={"wall_ms": 300})
    assert ("failed", "killed_deadline") == fields(task, "state", "reason"), task
    hostile.await_ordinary()
    assert hostile.rss_bytes() - before < 8 * MIB


def test_an_outcome_that_drips_in_byte_by_byte_is_one_all_the_same(hostile: Playing) -> None:
    drip = "for byte in outcome(exit_code=0, detail='slow') + frame(5): say(bytes((byte,))); hold(0.0005)"
    task = hostile.play(drip + "\nos._exit(0)")
    assert ("completed", "exit", "slow") == fields(task, "state", "reason", "detail"), task


def test_a_drip_that_never_ends_has_its_deadline(hostile: Playing) -> None:
    source = 'say(head(b"gR", 1, 4, 16384))\nwhile True: say(b"x"); hold(0.001)'
    task = hostile.play(source, limits={"wall_ms": 300})
    assert ("failed", "killed_deadline", None) == fields(task, "state", "reason", "signal"), task


DETAILS = {
    "bytes that are no UTF-8": (rb"a\xff\xfe\x80z", "a\ufffd\ufffd\ufffdz"),
    "half a character": (rb"a\xe2\x82", "a\ufffd"),
    "half a surrogate pair": (rb"\xed\xa0\x80", "\ufffd" * 3),
    "controls": (rb"\x00\x1b[2J\r\n\x7f", "\0\x1b[2J\r\n\x7f"),
}


@pytest.mark.parametrize("name", DETAILS)
def test_a_detail_of(name: str, hostile: Playing) -> None:
    """A detail is a text for people: what can't be told is replaced, and the end stands."""
    escaped, expected = DETAILS[name]
    count = len(escaped.decode("unicode_escape"))
    body = f"body = bytearray(outcome('trap')[8:]); body[-2:] = bytes(({count}, 0)); "
    say = f'say(frame(4, bytes(body) + b"{escaped.decode()}") + frame(5)); os._exit(0)'
    task = hostile.play(body + say)
    assert ("failed", "trap", expected) == fields(task, "state", "reason", "detail"), task


def test_figures_beyond_all_measure_are_told_within_it(hostile: Playing) -> None:
    most = "fuel_used=2**64-1, init_us=2**64-1, run_us=2**64-1, cpu_us=2**64-1, peak_memory_bytes=2**64-1"
    results = "results=tuple((kind, 2**64-1) for kind in (0, 1, 2, 3)) * 250"
    task = hostile.play(f"say(outcome({most}, {results}) + frame(5)); os._exit(0)")
    assert ("completed", "exit", 2**63 - 1, 2**63 - 1) == fields(task, "state", "reason", "fuel_used", "run_us")
    assert [-1, -1, "NaN", "NaN"] * 250 == task["result"]


def test_a_runner_can_not_let_go_of_its_status_pipe(hostile: Playing) -> None:
    crashed(hostile.play('raw("close", 4); hold()'), "the runner died by SIGSYS", "SIGSYS")


@pytest.mark.root
def test_one_with_mounts_that_lets_go_of_its_status_pipe_has_its_deadline_all_the_same(hostile: Playing) -> None:
    """It may close descriptors, for files' sake. Nothing can be told any more, and it ends as one that says nothing."""
    task = hostile.play('raw("close", 4); hold()', mounts=MOUNTS, limits={"wall_ms": 300})
    assert ("failed", "killed_deadline") == fields(task, "state", "reason"), task
    said = hostile.play('raw("close", 4); raw("write", 4, 0, 0); os._exit(0)', mounts=MOUNTS)
    crashed(said, NO_WORD.format(0), None)


def test_one_that_reads_no_order_to_stop_is_killed(hostile: Playing) -> None:
    task_id = hostile.start("messages.Mailbox.look = lambda self, fd: -1; hold()")
    hostile.worker.await_state(task_id, "running")
    hostile.worker.order_stop(task_id)
    ended = hostile.worker.await_end(task_id)
    assert ("completed", "stopped", None) == fields(ended, "state", "reason", "signal"), ended


WARM = {"isolation": "instance", "limits": {"wall_ms": 2_000}}


@pytest.mark.parametrize(
    "ruse",
    [
        "messages.Mailbox.receive = lambda self, fd: hold()",
        "messages.Mailbox.receive = lambda self, fd: os._exit(0)",
    ],
    ids=["reads no more", "ends"],
)
def test_a_warm_one_that_reads_no_more_jobs_costs_no_next_job(ruse: str, hostile: Playing) -> None:
    """The next job never began: it gets a runner of its own."""
    first = hostile.play(ruse, **WARM)
    assert ("completed", "exit") == fields(first, "state", "reason"), first
    second = hostile.play("result = 'another'", **WARM)
    assert ("completed", "another") == fields(second, "state", "detail"), second
    assert pid_of(first) != pid_of(second)
    hostile.play("os._exit(0)", **WARM)  # nobody stays warm


def test_a_warm_one_that_speaks_while_it_rests_is_killed(hostile: Playing) -> None:
    ruse = "def speak(self, fd):\n say(frame(5)); hold()\nmessages.Mailbox.receive = speak"
    first = hostile.play(ruse, **WARM)
    assert ("completed", "exit") == fields(first, "state", "reason"), first
    hostile.await_nothing_left()


def test_the_worker_was_never_restarted(hostile: Playing) -> None:
    """Last: all that happened here left the same processes alive."""
    assert all(os.path.exists(f"/proc/{process.pid}") for process in (hostile.coordinator, hostile.zygote))
    assert 0 == hostile.worker.http.get("/stats").json()["tasks"]["running"]
