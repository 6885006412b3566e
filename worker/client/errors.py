"""What a client raises. `executed` is the truth about what was asked for: `no`, `maybe`, `yes`."""

from __future__ import annotations

from typing import Any

from worker.errors import WorkerError


class ClientError(WorkerError):
    """Root of the client's errors."""

    executed = "maybe"


class Refused(ClientError):
    """The worker answered with a problem (RFC 9457).

    Attributes:
        status, code, detail, field: of the document.
        executed: likewise.
        retry_after_s: when it may be tried again, where the worker says so.
        document: the whole of it.
    """

    def __init__(self, status: int, document: dict[str, Any], retry_after_s: float | None) -> None:
        self.status = status
        self.document = document
        self.code = str(document.get("code", ""))
        self.detail = str(document.get("detail", ""))
        self.field = document.get("field")
        self.executed = str(document.get("executed", "maybe"))
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.code}: {self.detail}")


class BadUrl(ClientError):
    """Not the address of a worker."""

    executed = "no"

    def __init__(self, url: str) -> None:
        super().__init__(f"{url!r} is no address of a worker; one looks like http://127.0.0.1:8470")
        self.url = url


class Unreachable(ClientError):
    """No connection came about: nothing was sent."""

    executed = "no"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} can't be reached: {why}")
        self.url = url
        self.why = why


class Broken(ClientError):
    """The connection broke, or no answer came in time: what was asked for may have been done."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} gave no whole answer: {why}")
        self.url = url
        self.why = why


class NotAWorker(ClientError):
    """Something answered that isn't a worker, or one of another version."""

    def __init__(self, url: str, status: int, what: str) -> None:
        super().__init__(f"{url} answered with status {status} and {what}: is a galago-worker there?")
        self.url = url
        self.status = status


class StillGoing(ClientError):
    """A task wasn't where it was waited for in time. It goes on."""

    executed = "yes"

    def __init__(self, task_id: str, state: str, within_s: float) -> None:
        super().__init__(f"task {task_id} is still {state} after {within_s:g} s, and goes on")
        self.task_id = task_id
        self.state = state
