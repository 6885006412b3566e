"""Revisions in the table, as the coordinator would have put them there."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.api.api_client import NOW_US, Api
from worker.config_values import CALLS_DIRECTORY
from worker.core.changes import Applied, Change, InsertTask, Note, SetDefault, SetTrouble, UpdateTask
from worker.core.task import Handler, Kind, Service, State, Status, Task, TaskSpec

WAGI = Handler("wagi")
_numbers = itertools.count(1)


class Deployed:
    """One revision, routed, and its function's default unless that is said otherwise.

    Attributes:
        socket: where its runners listen.
    """

    def __init__(
        self,
        api: Api,
        function: str = "f",
        revision: str = "r1",
        handler: Handler = WAGI,
        *,
        default: bool = True,
        **spec: Any,
    ) -> None:
        self.api = api
        service = Service(function, revision, handler)
        number = next(_numbers)
        task_id = f"{number:08x}-0000-7000-8000-{number:012x}"
        self.task = Task(
            task_id, "", TaskSpec(Kind.SERVICE, function, None, **{"queue_ms": 5000, **spec}, service=service), NOW_US
        )
        self.socket = Path(api.config.data_dir) / CALLS_DIRECTORY / task_id
        self.apply(InsertTask(self.task, Note(1, "accepted", State.PENDING)))
        self.become(State.RUNNING)
        if default:
            self.set_default(revision)

    def apply(self, change: Change) -> None:
        assert [Applied()] == self.api.writer.apply([change])
        self.api.page.route_generation += 1

    def become(self, state: State, **status: Any) -> None:
        task = replace(self.task, status=Status(state, **status))
        self.apply(UpdateTask(task, (Note(2, "changed", state),)))

    def retire(self) -> None:
        """It is gone, and its name is free again."""
        self.set_default(None)
        self.become(State.COMPLETED)

    def set_default(self, revision: str | None) -> None:
        assert self.task.spec.service is not None
        self.apply(SetDefault(self.task.spec.service.function, revision, 1))

    def set_trouble(self, why: str | None) -> None:
        self.apply(SetTrouble(self.task.id, why))
