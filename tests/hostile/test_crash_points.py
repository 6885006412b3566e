"""Processes are killed or stopped at each step of a job: it ends once, with a true reason, and the next one runs.

A seam holds the job at its step, so that nothing depends on time: a web server that doesn't answer, a module that is
slow to compile, a runner that goes on when its test says so. `tests/e2e/test_deaths.py` holds the same for jobs that
wait or run.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.coordinator.web import Web, answer, serving
from tests.e2e import guests
from tests.e2e.harness import FINAL, Worker, await_dead, fields, wait_for, wasm
from tests.e2e.healing import ROLES, await_healed
from tests.hostile.playing import PLAY, PLAY_EARLY, Playing, playing

KILLED, STOPPED = signal.SIGKILL, signal.SIGSTOP
# How long a case takes whose process is stopped.
OPTIONS = ("--heartbeat-timeout-ms=1000", "--init-ms=1500", "--fetch-timeout-s=3", "--fetch-allow=127.0.0.1")
# Those who have no part in the job once it has come to a step; which of them there are, and how many.
OTHERS = {role: count for role, count in ROLES.items() if role != "coordinator"}
# Looks at its stdin, which a test makes longer to let it go on, once or twice.
WAIT, WAIT_AGAIN = "while not os.pread(7, 1, 1): hold(0.002)\n", "while not os.pread(7, 1, 2): hold(0.002)\n"


@dataclass
class Held:
    """A task that is held at a step.

    Whoever is to be struck is looked for before `speak`: what is said then has to be followed within a second.
    """

    task_id: str
    go_on: Callable[[], None]
    own: Callable[[], psutil.Process]
    speak: Callable[[], None] = lambda: None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@pytest.fixture(scope="module")
def crashing() -> Iterator[Playing]:
    with playing("--max-runners", "2", *OPTIONS) as ready:
        yield ready


# -- the steps -----------------------------------------------------------------------------------------------------


def fetching(play: Playing, case: str) -> Held:
    """Its fetcher has asked, and has no answer yet."""
    released = threading.Event()
    module = wasm(f'(module (func (export "_start")) (func (export "{case}")))')

    def slow(connection: socket.socket, head: bytes) -> None:
        released.wait(20)
        answer(200, module)(connection, head)

    stack = contextlib.ExitStack()
    web: Web = stack.enter_context(serving())
    stack.callback(released.set)
    web.routes["/m.wasm"] = slow
    posted = play.worker.post(module={"url": web.url("/m.wasm")})
    assert 201 == posted.status_code, posted.text
    wait_for(lambda: web.heads, "it has asked")
    return Held(posted.json()["id"], released.set, lambda: play.worker.one("fetcher"), stack=stack)


def compiling(play: Playing, case: str) -> Held:
    """Its compiler works, for a second at least."""
    one_of_all = f'(module (func (export "{case}"))'
    digest = play.worker.upload(wasm(guests.slow_to_compile(2).replace("(module", one_of_all, 1)))
    task_id = play.worker.start_task(digest)
    wait_for(lambda: play.worker.role("fork"), "it is compiled")
    return Held(task_id, lambda: None, lambda: play.worker.one("fork"))


def starting(play: Playing, case: str) -> Held:
    """Its runner is sealed and has read the job, and does not say STARTED."""
    return playing_a_part(play, PLAY_EARLY, WAIT, "scheduled")


def ending(play: Playing, case: str) -> Held:
    """Its runner says how it ended when it is let, and is not gone: it has a second for that (LINGER_US)."""
    said = "say(outcome(exit_code=0, detail='it is over')); os.write(5, b'said')\n"
    held = playing_a_part(play, PLAY, WAIT + said + WAIT_AGAIN + "say(frame(5)); os._exit(0)", "running")
    let = held.go_on

    def speak() -> None:
        let()
        play.worker.await_output(held.task_id, b"said")

    held.speak = speak
    held.go_on = partial(let, 2)
    return held


def playing_a_part(play: Playing, marker: str, source: str, state: str) -> Held:
    task_id = play.worker.start_task(play.hello, args=[marker, source], stdin="x")
    play.worker.await_state(task_id, state)
    wait_for(lambda: play.worker.role("fork"), "there is a runner")
    (stdin,) = play.worker.data_dir.glob(f"**/stdin/{task_id}")

    def go_on(at: int = 1) -> None:
        with contextlib.suppress(FileNotFoundError), stdin.open("r+b") as file:  # gone with a task that has ended
            file.seek(at)
            file.write(b"x")

    return Held(task_id, go_on, lambda: play.worker.one("fork"))


# -- what is true after each ---------------------------------------------------------------------------------------


def asked(worker: Worker, path: str) -> dict[str, Any] | None:
    """What it answers; None while there is nobody who does."""
    with contextlib.suppress(httpx.TransportError):
        said = worker.http.get(path)
        if said.status_code == 200:
            document: dict[str, Any] = said.json()
            return document
    return None


def ended(worker: Worker, task_id: str) -> dict[str, Any]:
    """The task, once it is final: whoever serves may have to be started anew meanwhile."""

    def final() -> dict[str, Any] | None:
        task = asked(worker, f"/tasks/{task_id}")
        return task if task is not None and task["state"] in FINAL else None

    task: dict[str, Any] = wait_for(final, f"{task_id} ends")
    return task


def await_unharmed(play: Playing, struck: list[psutil.Process], told: dict[str, Any]) -> None:
    """Who was struck is gone, all are there again, an ordinary job runs, and the task's end is what it was."""
    worker = play.worker
    await_healed(worker, *struck)
    wait_for(lambda: not worker.role("fork"), "all runners are gone")
    again = worker.task(told["id"])
    assert told == again, "what is final changes no more"
    assert ["ended"] == [event["event"] for event in again["events"] if event["event"] == "ended"]


Step = Callable[[Playing, str], Held]


def cases(*pairs: tuple[Step, signal.Signals]) -> pytest.MarkDecorator:
    """`step` and `number`. What is missing is in `test_deaths.py`, or is the same way as what is here."""
    named = [pytest.param(step, number, id=f"{step.__name__}-{number.name}") for step, number in pairs]
    return pytest.mark.parametrize(("step", "number"), named)


@cases(
    *[(step, KILLED) for step in (fetching, compiling, starting, ending)],
    *[(step, STOPPED) for step in (fetching, compiling, starting, ending)],
)
def test_the_death_of_all_who_have_no_part_in_it_costs_a_job_nothing(
    step: Step, number: signal.Signals, crashing: Playing
) -> None:
    """Zygote, gunicorn's master and its workers, all at once."""
    held = step(crashing, f"others-{number.name}")
    with held.stack:
        struck = [process for role in OTHERS for process in crashing.worker.role(role)]
        assert sum(OTHERS.values()) == len(struck)
        held.speak()
        for process in struck:
            process.send_signal(number)
        held.go_on()
        task = ended(crashing.worker, held.task_id)
    assert ("completed", "exit", 1) == fields(task, "state", "reason", "attempts"), task
    await_unharmed(crashing, struck, task)


COORDINATORS = {
    # What waited goes on, what had begun is lost: nobody knows any more how far it came.
    fetching: ("completed", "exit", 1),
    compiling: ("completed", "exit", 1),
    starting: ("failed", "lost", 1),
    ending: ("failed", "lost", 1),
}


@cases(
    *[(step, KILLED) for step in (fetching, starting, ending)],
    *[(step, STOPPED) for step in (fetching, compiling, starting, ending)],
)
def test_the_coordinators_death_loses_what_had_begun_alone(
    step: Step, number: signal.Signals, crashing: Playing
) -> None:
    held = step(crashing, f"coordinator-{number.name}")
    with held.stack:
        own = held.own()
        struck = crashing.worker.one("coordinator")
        held.speak()
        struck.send_signal(number)
        await_dead([own], "its coordinator is dead")
        held.go_on()
        task = ended(crashing.worker, held.task_id)
    assert COORDINATORS[step] == fields(task, "state", "reason", "attempts"), task
    await_unharmed(crashing, [struck], task)


OWN = {
    (fetching, KILLED): ("failed", "fetch_failed", None, "killed by SIGKILL"),
    (fetching, STOPPED): ("failed", "fetch_failed", None, "timed_out: it took longer than 3 s"),
    (starting, KILLED): ("failed", "crashed", "SIGKILL", "the runner died by SIGKILL"),
    (starting, STOPPED): ("failed", "init_failed", None, "the runner did not start in time (init_ms)"),
    # Its word counts if it ends in order, or if it is we who end it because it does not come to its end.
    (ending, KILLED): ("failed", "crashed", "SIGKILL", "the runner died by SIGKILL"),
    (ending, STOPPED): ("completed", "exit", None, "it is over"),
}


@cases(*OWN)
def test_the_death_of_its_own_process_is_told_as_what_it_was(
    step: Step, number: signal.Signals, crashing: Playing
) -> None:
    """The compiler's: see `test_deaths.py`."""
    held = step(crashing, f"own-{number.name}")
    with held.stack:
        struck = held.own()
        held.speak()
        struck.send_signal(number)
        task = ended(crashing.worker, held.task_id)
    *expected, detail = OWN[step, number]
    assert tuple(expected) == fields(task, "state", "reason", "signal"), task
    assert detail in task["detail"], task
    await_unharmed(crashing, [struck], task)
