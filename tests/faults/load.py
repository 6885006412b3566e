"""Jobs that are posted all the time, and what became of each: what was accepted, refused, or not told."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

from tests.e2e.functions import Crowd
from tests.e2e.harness import FINAL, Worker

# A job, but for its labels: by what names the post.
Choose = Callable[[str], dict[str, Any]]


class Jobs(Crowd):
    """So many clients that post one job after the other, each with an Idempotency-Key and a label of its own.

    Attributes:
        accepted: what was answered with 201: the task's id, by the post's name.
        refused: what else the answer was, where it says that nothing was done, or that there was no connection (0).
        untold: posts whose connection broke before the answer was here.
    """

    def __init__(self, worker: Worker, number: int, choose: Choose, run: str, wait_s: int = 0) -> None:
        """`run` names this crowd in labels and keys; `wait_s`: how long a client waits for its job's end."""
        super().__init__(worker.port, number)
        self.accepted: dict[str, str] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.untold: set[str] = set()
        self._worker = worker
        self._choose = choose
        self._run = run
        self._wait_s = wait_s
        self._lock = threading.Lock()

    def body(self, call: str) -> bytes:
        """The same for the same name, however often it is asked for: so that it can be posted again."""
        return json.dumps({"kind": "job", **self._choose(call), "labels": {"run": self._run, "post": call}}).encode()

    def headers(self, call: str) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "idempotency-key": f"{self._run}-{call}",
            "prefer": f"wait={self._wait_s}",
        }

    def ask(self, connection: http.client.HTTPConnection, call: str) -> None:
        connection.request("POST", "/tasks", self.body(call), self.headers(call))
        answer = connection.getresponse()
        document = json.loads(answer.read())
        with self._lock:
            if answer.status == 201:
                self.accepted[call] = document["id"]
            elif document.get("executed") == "maybe":
                self.untold.add(call)
            else:
                self.refused[call] = answer.status, json.dumps(document)

    def broke(self, call: str, error: Exception) -> None:
        with self._lock:
            if isinstance(error, ConnectionRefusedError):  # nothing was sent
                self.refused[call] = 0, str(error)
            else:
                self.untold.add(call)

    def answered(self) -> int:
        return len(self.accepted)

    def claim_untold(self) -> dict[str, str]:
        """Post again what was not told of: the ids, by the post's name. The key keeps it from being done twice."""
        claimed = {}
        for call in sorted(self.untold):
            headers = self.headers(call) | {"prefer": "wait=0"}
            answer = self._worker.http.post("/tasks", content=self.body(call), headers=headers)
            assert answer.status_code in (200, 201), answer.text
            claimed[call] = answer.json()["id"]
        return claimed

    def recorded(self) -> dict[str, list[str]]:
        """Ids of this crowd's tasks in the table, by the post's name."""
        found: dict[str, list[str]] = {}
        target = f"/tasks?limit=500&label=run%3D{self._run}"
        after = ""
        while True:
            page = self._worker.http.get(target + after).json()
            for task in page["tasks"]:
                found.setdefault(task["labels"]["post"], []).append(task["id"])
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"


def ended(worker: Worker, task_ids: list[str]) -> list[dict[str, Any]]:
    """Each of the tasks, once it has ended."""
    tasks = [worker.task(task_id, wait_s=60) for task_id in task_ids]
    assert [] == [task for task in tasks if task["state"] not in FINAL]
    return tasks
