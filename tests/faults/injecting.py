"""Faults put into a running worker by its seam (`worker.shared.faults`): who is killed where, what is true after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.e2e.harness import FINAL, Worker, running, scratch, wait_for

# What a client that repeats itself may be told before it is told what became of its task.
NOT_YET = (409, 503)


class Injected:
    """A worker in whose way faults can be put."""

    def __init__(self, worker: Worker, directory: Path) -> None:
        self.worker = worker
        self._directory = directory

    def arm(self, point: str, action: str = "kill") -> None:
        """From now on, whoever passes the point meets `action`."""
        half = self._directory / "half"
        half.write_text(action)
        half.chmod(0o666)
        half.rename(self._directory / point)

    def disarm(self, point: str) -> None:
        (self._directory / point).unlink(missing_ok=True)

    def armed(self, point: str) -> bool:
        return (self._directory / point).exists()

    @contextmanager
    def killing(self, point: str, nth: int = 1, *, after: str = "") -> Iterator[None]:
        """Somebody dies at the point because of what is done within, once `after` is passed; all are back behind it."""
        worker = self.worker
        role = "api" if is_the_apis(point) else "coordinator"
        before = set(worker.role(role))
        self.arm(after or point, f"then {point}" if after else f"kill {nth}")
        yield
        wait_for(lambda: not (self.armed(point) or self.armed(after or point)), f"{point} is passed")
        wait_for(lambda: len(before - living(worker, role)) == 1, f"the {role} is dead")
        wait_for(lambda: len(living(worker, role)) == len(before), f"there is a {role} again")
        worker.await_ready()

    def repeat(self, path: str, **request: Any) -> httpx.Response:
        """The answer to a POST that may be sent again and again, once it is one of the task or module."""

        def answer() -> httpx.Response | None:
            found = attempt(self.worker, path, **request)
            assert found is None or found.status_code in (200, 201, *NOT_YET), found.text
            return found if found is not None and found.status_code in (200, 201) else None

        told: httpx.Response = wait_for(answer, f"{path} is answered")
        return told

    def ended(self, task_id: str) -> dict[str, Any]:
        """The task once it is final; an API worker may have to be started again meanwhile."""

        def final() -> dict[str, Any] | None:
            with suppress(httpx.TransportError):
                task = self.worker.task(task_id)
                return task if task["state"] in FINAL else None
            return None

        task: dict[str, Any] = wait_for(final, f"{task_id} ends")
        return task

    def assert_whole(self) -> None:
        """No file is half-made or nobody's, and the audit finds no difference."""
        worker = self.worker
        wait_for(lambda: self.leftovers() == [], f"nothing is left over: {self.leftovers()}")
        assert [] == worker.audit_settled()

    def leftovers(self) -> list[str]:
        """Files of the data directory that nothing in the table explains. Root or the worker's own user may look."""
        data_dir, blobs = self.worker.data_dir, self.worker.data_dir / "blobs"
        modules = {module["digest"] for module in self.worker.http.get("/modules?limit=500").json()["modules"]}
        known = {path.name for path in (blobs / "modules").iterdir()}
        outputs = {path.name.partition(".")[0] for path in (blobs / "out").glob("*/*")}
        tasks = {task["id"]: task["state"] for task in self.worker.http.get("/tasks?limit=500").json()["tasks"]}
        found = sorted(known ^ {digest.removeprefix("sha256:") for digest in modules})
        found += [str(path) for path in (blobs / "tmp").iterdir()]
        found += [str(path) for path in (data_dir / "artifacts").glob("*.new")]
        found += outputs - set(tasks)
        return found + [path.name for path in (blobs / "stdin").iterdir() if tasks.get(path.name) in (None, *FINAL)]


def is_the_apis(point: str) -> bool:
    """Whether an API worker passes it."""
    return point.startswith("command.") or point in ("blob.created", "blob.written", "blob.synced")


def living(worker: Worker, role: str) -> set[psutil.Process]:
    return set(worker.role(role))


def attempt(worker: Worker, path: str, **request: Any) -> httpx.Response | None:
    """The answer; None where whoever had the request died over it."""
    try:
        return worker.http.post(path, **request)
    except httpx.TransportError:
        return None


@contextmanager
def injecting(*options: str, **how: Any) -> Iterator[Injected]:
    """A worker for a file of cases."""
    with scratch() as place:
        directory = place / "faults"
        directory.mkdir()
        directory.chmod(0o777)  # who passes takes the file away, and has another uid than we
        with running(place / "data", "--fault-dir", str(directory), *options, **how) as worker:
            yield Injected(worker, directory)
