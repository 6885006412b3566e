"""What is told of functions: the core's view and the figures of calls, bounded by what a reply holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from runner.probe import Finding
from tests.shared.samples import make_task
from worker.coordinator import reports as module
from worker.coordinator.call_figures import Figures
from worker.coordinator.reports import Reports
from worker.coordinator.stats import Stats
from worker.core.commands import CallFigures
from worker.core.pool import Pool
from worker.core.revision import View
from worker.core.task import Kind, Limits, RunnerInfo, State, Status


def _view(number: int, function: str = "f", **fields: Any) -> View:
    defaults = {"idle": 2, "busy": 1, "starting": 0, "queued": 3, "cold_starts": 4, "broken": 0, "trouble": None}
    return View(
        task_id=f"t{number}", function=function, revision=f"r{number}", state=State.RUNNING, **{**defaults, **fields}
    )


class Telling:
    """Reports of a node that is made of plain values."""

    def __init__(self, path: str, *views: View) -> None:
        self.figures = Figures(lambda _: True)
        self.pool = Pool(4, memory_bytes=1000)
        self.live: dict[str, Any] = {}
        node: Any = SimpleNamespace(
            services=SimpleNamespace(
                views=lambda functions=None: [one for one in views if functions is None or one.function in functions],
                waiting_calls=sum(view.queued for view in views),
            ),
            tasks=SimpleNamespace(live=self.live),
            jobs=SimpleNamespace(queue=[1, 2]),
            pool=self.pool,
        )
        reader: Any = SimpleNamespace(counts=lambda: {State.COMPLETED: 5, State.RUNNING: 99})
        stats = Stats("node", path, dict)
        zygote: Any = SimpleNamespace(restarts=-1)
        seal = {"seccomp": Finding(True), "cgroup": Finding(False)}
        self.reports = Reports(node, reader, self.figures, stats, zygote, lambda: seal)

    def functions(self, *names: str) -> Any:
        return orjson.loads(self.reports.functions(names))

    def stats(self) -> Any:
        return orjson.loads(self.reports.stats())


def test_a_revision_is_told_with_its_calls(tmp_path: Any) -> None:
    telling = Telling(str(tmp_path), _view(1, trouble="it died", broken=7))
    telling.figures.add((CallFigures("t1", (("ok", 5), ("fuel", 1)), fuel=60),))
    told = telling.functions("f", "nobody")["f"]["r1"]
    assert ({"idle": 2, "busy": 1, "starting": 0}, 3, 4, 7, "it died", "t1") == (
        *(told["runners"], told["queued"], told["cold_starts"]),
        *(told["broken"], told["trouble"], told["task_id"]),
    )
    assert (6, {"fuel": 1}, 60, None) == (told["calls"], told["errors"], told["fuel"], told["run_us"]["p50"])


def test_only_what_was_asked_for_is_told(tmp_path: Any) -> None:
    telling = Telling(str(tmp_path), _view(1), _view(2), _view(3, "g"))
    assert {"f": ["r1", "r2"]} == {name: list(found) for name, found in telling.functions("f").items()}
    assert {} == telling.functions()


def test_more_than_a_reply_holds_is_left_out(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    telling = Telling(str(tmp_path), *(_view(number, f"f{number}") for number in range(20)))
    told = telling.reports.functions(f"f{number}" for number in range(20))
    assert len(told) <= 1000
    assert 1 < len(orjson.loads(told)) < 20


def test_statistics_add_up_revisions_and_functions(tmp_path: Any) -> None:
    telling = Telling(str(tmp_path), _view(1), _view(2), _view(3, "g", idle=0, busy=0, queued=1))
    telling.figures.add((CallFigures("t1", (("ok", 5), ("fuel", 1))), CallFigures("t3", (("ok", 2),))))
    told = telling.stats()
    assert {"calls": 8, "errors": 1, "waiting": 7, "cold_starts": 12} == told["calls"]
    assert {
        "f": {"revisions": 2, "runners": 6, "queued": 6, "calls": 6, "errors": 1},
        "g": {"revisions": 1, "runners": 0, "queued": 1, "calls": 2, "errors": 0},
    } == told["functions"]


def test_statistics_name_some_functions_and_count_all(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FUNCTIONS", 2)
    telling = Telling(str(tmp_path), *(_view(number, f"f{number % 4}") for number in range(8)))
    told = telling.stats()
    assert ({"f0": 2, "f1": 2}, 32) == (
        {name: of["revisions"] for name, of in told["functions"].items()},
        told["calls"]["cold_starts"],
    )


def test_states_are_the_cores_while_they_last_and_the_tables_after(tmp_path: Any) -> None:
    telling = Telling(str(tmp_path))
    job = make_task(1, status=Status(state=State.RUNNING, runner=RunnerInfo(77, 0)), limits=Limits(memory_bytes=10))
    service = make_task(2, status=Status(state=State.RUNNING), limits=Limits(memory_bytes=20))
    telling.live.update({task.id: SimpleNamespace(task=task) for task in (job, service)})
    server = telling.pool.start(None, service.id, 0, 100, Kind.SERVICE)
    assert server is not None
    starting = telling.reports.load()
    server.state, server.pid = type(server.state).SERVING, 88
    load = telling.reports.load()
    assert ((2, 5, 0), 2, (4, 3)) == (
        (load.by_state["running"], load.by_state["completed"], load.by_state["pending"]),
        load.queue_length,
        (load.slots, load.slots_free),
    )
    assert [(job.id, 77, 10)] == [(of.task_id, of.pid, of.memory_bytes) for of in starting.running]
    assert [(job.id, 77, 10), (service.id, 88, 20)] == [(of.task_id, of.pid, of.memory_bytes) for of in load.running]


def test_a_reading_is_of_one_moment(tmp_path: Any) -> None:
    telling = Telling(str(tmp_path), _view(1))
    telling.pool.start(None, "t1", 0, 300, Kind.SERVICE)
    telling.figures.add((CallFigures("t1", (("ok", 5),)),))
    reading = telling.reports.reading()
    telling.figures.add((CallFigures("t1", (("ok", 5),)),))
    assert ({"used": 300, "total": 1000}, {"seccomp": True, "cgroup": False}, 0) == (
        reading.memory_bytes,
        reading.layers,
        reading.zygote_restarts,
    )
    assert (3, 1, 5) == (reading.runners["free"], reading.runners["starting"], reading.revisions[0].figures.calls)
