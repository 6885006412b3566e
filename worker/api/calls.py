"""Calls of functions: `/functions/{function}[/{revision}[/{path}]]`, which connections bring here past ASGI and Falcon.

The request is here whole before a runner is asked, and the answer is here whole before the client gets a byte, so that
a slow client holds no runner. Every answer says whether the call was executed (`X-Galago-Executed`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.errors import ProtocolError
from runner.protocol.call import FLAG_CANCEL, Answer, encode_call_block
from worker.api import cgi
from worker.api.asgi import Receive, Response, Scope, problem_answer
from worker.api.asking import MAYBE_EXECUTED, NOT_EXECUTED, Asked, Asker, Done, End
from worker.api.call_figures import OK, Reporter
from worker.api.call_outcomes import EXIT, problem_of, trim, unanswered, usage
from worker.api.call_rights import AUTHORIZATION, Rights
from worker.api.hosts import is_loopback
from worker.api.incoming import Incoming
from worker.api.problems import RETRY_STATUS, Problem, internal, not_allowed
from worker.api.routes import PREFIX, Routes, Target
from worker.api.services import Services
from worker.core.commands import ReportBroken
from worker.errors import ChannelError, NoAnswer, NotSent

CALLS_ONLY = "galago.calls_only"  # set by the server for what came by --calls-bind
REFUSED_METHODS = frozenset(("TRACE", "CONNECT"))
_ALLOWED = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_BODILESS = frozenset((204, 304))
_RETRY_HEADER = (b"x-galago-retry", b"%d" % RETRY_STATUS)
_RETRIED_STATUSES = frozenset((429, 503))
# Even a call that may not wait needs a moment to be accepted.
_LEAST_QUEUE_S = 0.01
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.002, 0.05
_REPORT_TIMEOUT_S = 5.0
CLIENT_GONE = "client_gone"  # an outcome that no client is told

_LENGTH = b"content-length"
_EXECUTED = (b"x-galago-executed", b"yes")
# Pages of guests on the origin of control routes: no script of theirs may act as that origin.
_SANDBOX = ((b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff"))

Finish = Callable[["Response | None"], None]


class ClientGone(Exception):
    """Nobody is there to be answered."""


class Call:
    """One request.

    Attributes:
        target: where it goes; not there while that isn't found.
        fields: its header, each name once.
        body_bytes: None where it has no body.
        started_s, until_s: when it was here whole, and by when a runner must have taken it (CLOCK_MONOTONIC).
        asked: a runner may have it, or have had it.
        with_runner: how it is, or how it went, with the runner that was asked last.
        maybe: a runner died over it, so that whatever comes now, it may have been executed.
    """

    __slots__ = (
        "answer",
        "asked",
        "body",
        "body_bytes",
        "fields",
        "has_body",
        "maybe",
        "receive",
        "rights",
        "scope",
        "started_s",
        "target",
        "until_s",
        "with_runner",
    )
    target: Target
    fields: dict[bytes, bytes]
    rights: Rights
    started_s: float
    until_s: float

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.body = b""
        self.body_bytes: int | None = None
        self.answer: Answer | None = None
        self.with_runner: Asked | End | None = None
        self.has_body = self.asked = self.maybe = False

    @property
    def runner_pid(self) -> int:
        """Of who was asked last; 0 where that isn't known."""
        return self.with_runner.pid if isinstance(self.with_runner, Asked) else 0


class Calls:
    """
    Args:
        loopback_only: on the listener that control routes share, refuse peers of other machines.
    """

    def __init__(self, services: Services, *, loopback_only: bool) -> None:
        self._services = services
        self._loopback_only = loopback_only
        self._tokens = services.tokens
        config = services.config
        self._max_header_bytes = config.max_header_bytes
        self._max_body_bytes = config.max_body_bytes
        self._body_timeout_s = config.body_timeout_s
        self._routes = Routes(services.reader.routes, services.page, Path(config.data_dir))
        self._asker = Asker(self._report_broken)
        self._reporter = Reporter(services.channel)
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Tell the coordinator the last figures; call it once no call is under way."""
        self._asker.close()
        await self._reporter.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_REPORT_TIMEOUT_S)
        self._routes.close()

    async def respond(self, scope: Scope, receive: Receive) -> Response | None:
        """(status, header fields, body) for a call, None where nobody is there to be answered any more.

        The body is empty where there may be none. `scope` is ASGI's, of which it needs `method`, `http_version`,
        `raw_path`, `query_string`, `headers`, `server`, `client`, and CALLS_ONLY.
        """
        return await self._respond(Call(scope, receive), None)

    def begin(self, scope: Scope, receive: Receive, finish: Finish) -> bool:
        """Ask a runner for a call that has no body, without a task that waits: that costs as much as all the rest.

        Args:
            finish: told what `respond` would have given, later.

        Returns:
            Whether it is taken on. Else nothing was done, and `respond` is to be asked.
        """
        call = Call(scope, receive)
        try:
            self._admit(call)
            if call.target.revision.handler.on_disconnect == "cancel":
                return False
            if call.has_body:  # its length is said, and is 0
                call.has_body, call.body_bytes = False, 0
            asked = self._ask(call, lambda end: self._ended(call, end, finish))
        except Exception:  # noqa: BLE001 - `respond` meets it again, and tells it
            return False
        call.with_runner = asked
        if isinstance(asked, End):
            self._ended(call, asked, finish)
        return True

    def _ended(self, call: Call, end: Answer | End, finish: Finish) -> None:
        if isinstance(end, Answer):
            finish(self._concluded(call, end))
            return

        async def go_on() -> None:
            finish(await self._respond(call, end))

        self._keep(go_on())

    async def _respond(self, call: Call, end: End | None) -> Response | None:
        """`end` is how the first try ended, where it was made already."""
        try:
            if end is None:
                self._admit(call)
            answer = await self._answered(call, end)
        except Problem as problem:
            return self._refusal(call, problem)
        except (ClientGone, asyncio.CancelledError) as exc:
            self._count(call, CLIENT_GONE, None)
            if isinstance(exc, ClientGone):
                return None
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it was, it is logged and answered
            return self._refusal(call, internal(exc, "a call", "maybe" if call.asked else "no"))
        return self._concluded(call, answer)

    def _concluded(self, call: Call, answer: Answer) -> Response:
        """What the client gets of a runner's answer."""
        call.answer = answer
        try:
            response = _response(call, answer)
        except Problem as problem:
            return self._refusal(call, problem)
        except ProtocolError as exc:  # an answer that the ABI can't have
            self._report_broken(call.target.revision.task_id, call.runner_pid, str(exc))
            return self._refusal(call, unanswered(End.BROKEN, call.target.revision, draining=False))
        except Exception as exc:  # noqa: BLE001 - as above
            return self._refusal(call, internal(exc, "a call", "yes"))
        self._count(call, OK, answer)
        return response

    # The request

    def _admit(self, call: Call) -> None:
        """Whether there is what was asked for, and whether this caller may. Raises: Problem."""
        scope = call.scope
        if scope["method"] in REFUSED_METHODS:
            raise not_allowed(scope["method"], _ALLOWED)
        if self._loopback_only and not scope[CALLS_ONLY] and not is_loopback(scope["client"][0]):
            raise Problem("forbidden", "without a --token-file only this machine itself is served")
        call.target = self._routes.find(scope["raw_path"])
        self._start(call)
        fields = call.fields = cgi.read_fields(scope["headers"])
        call.has_body = _LENGTH in fields or b"transfer-encoding" in fields
        self._judge(call)

    def _judge(self, call: Call) -> None:
        call.rights = call.target.revision.rules.judge(self._tokens, call.fields, call.scope["client"][0])

    async def _read_body(self, call: Call) -> None:
        length = call.fields.get(_LENGTH)  # all that matters of a header which was read already
        headers = [] if length is None else [(_LENGTH, length)]
        incoming = Incoming({"headers": headers}, call.receive, self._max_header_bytes)
        call.body = await incoming.body(self._max_body_bytes, self._body_timeout_s)
        call.body_bytes = len(call.body)
        self._start(call)

    @staticmethod
    def _start(call: Call) -> None:
        """From here on it waits: what a client takes to send a body is not of its function's time."""
        call.started_s = time.monotonic()
        call.until_s = call.started_s + max(_LEAST_QUEUE_S, call.target.revision.queue_s)

    # The answer

    async def _answered(self, call: Call, end: Answer | End | None) -> Answer:
        """Ask runners until one has answered, or the call may wait no longer. `end` is how the first try ended.

        Raises:
            Problem: how it ended else.
        """
        if call.has_body:
            await self._read_body(call)
        pause_s = 0.0
        while True:
            revision = call.target.revision
            if end is None:
                end = await self._asked_once(call)
            if isinstance(end, Answer):
                return end
            may_wait = end in NOT_EXECUTED and time.monotonic() + pause_s < call.until_s
            if may_wait and not (end is End.REFUSED and revision.trouble is not None):
                await asyncio.sleep(pause_s)
                pause_s = min(_LAST_PAUSE_S, 2 * pause_s or _FIRST_PAUSE_S)
            elif end in MAYBE_EXECUTED and revision.handler.retryable and not call.maybe:
                call.maybe = True
                call.until_s = max(call.until_s, time.monotonic() + _LEAST_QUEUE_S)
            else:
                raise unanswered(end, revision, draining=self._services.page.draining)
            self._route_again(call)
            end = None

    def _ask(self, call: Call, done: Done) -> Asked | End:
        revision, rights = call.target.revision, call.rights
        body = revision.abi.request(call.body)
        block, count = b"", 0
        if revision.abi.wants_variables:
            fields = call.fields
            if rights.hides_token:
                fields = {name: value for name, value in fields.items() if name != AUTHORIZATION}
            block, count = call.target.path.variables(call.scope, fields, call.body_bytes)
        flags = FLAG_CANCEL if revision.handler.on_disconnect == "cancel" else 0
        sent_us = time.monotonic_ns() // 1000
        message = encode_call_block(body, block, count, flags, rights.fuel, rights.wall_ms, sent_us)
        try:
            asked = self._asker.ask(revision, message, rights.wall_ms / 1000, call.until_s, done)
        except OSError as exc:
            raise internal(exc, "asking a runner", "no") from exc
        call.asked = True
        return asked

    async def _asked_once(self, call: Call) -> Answer | End:
        ended: asyncio.Future[Answer | End] = asyncio.get_running_loop().create_future()

        def done(end: Answer | End) -> None:
            if not ended.done():  # who waited may have been cancelled since
                ended.set_result(end)

        asked = call.with_runner = self._ask(call, done)
        if isinstance(asked, End):
            return asked
        try:
            if call.target.revision.handler.on_disconnect == "cancel":
                await _ended_or_gone(ended, call.receive)
            return await ended
        except BaseException:
            self._asker.drop(asked)
            raise

    def _route_again(self, call: Call) -> None:
        """Nothing holds the call to a revision that didn't take it: that may be stopped by now."""
        before = call.target.revision
        call.target = self._routes.find(call.scope["raw_path"])
        if call.target.revision is not before:
            self._judge(call)

    def _refusal(self, call: Call, problem: Problem) -> Response:
        scope = call.scope
        if call.maybe and problem.executed == "no":
            problem.executed = "maybe"
        self._count(call, problem.code, call.answer)
        if problem.executed == "no" and problem.status in _RETRIED_STATUSES and _RETRY_HEADER in scope["headers"]:
            problem.status = RETRY_STATUS
        headers = [(b"x-galago-executed", problem.executed.encode())]
        if not scope[CALLS_ONLY]:
            headers += _SANDBOX
        if call.answer is not None and call.rights.exposes_usage:
            headers += usage(call.answer)
        status, fields, body = problem_answer(problem)
        return status, fields + headers, b"" if scope["method"] == "HEAD" else body

    # What the coordinator is told

    def _count(self, call: Call, code: str, answer: Answer | None) -> None:
        if hasattr(call, "target"):
            self._reporter.count(call.target.revision.task_id, code, answer)

    def _report_broken(self, task_id: str, pid: int, detail: str) -> None:
        self._keep(self._tell(ReportBroken(task_id, pid, detail)))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside what goes on, and hold it: a loop forgets tasks that nobody holds."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, command: ReportBroken) -> None:
        with suppress(NotSent, NoAnswer, ChannelError):  # the runner's own limits still hold
            await self._services.channel.ask(command, _REPORT_TIMEOUT_S)


def is_call(path: bytes) -> bool:
    """Whether a raw path is a call's: the list of functions is a control route."""
    return path.startswith(PREFIX) and len(path) > len(PREFIX)


async def _ended_or_gone(ended: asyncio.Future[Answer | End], receive: Receive) -> None:
    """Wait for the answer, or for the client to go. Raises: ClientGone."""
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not ended.done():
        raise ClientGone


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _response(call: Call, answer: Answer) -> Response:
    """What a runner's answer says to the client. Raises: Problem, ProtocolError."""
    trim(answer, int((time.monotonic() - call.started_s) * 1e6), call.rights.fuel)
    if answer.reason != EXIT:
        raise problem_of(answer)
    scope = call.scope
    status, headers, body = call.target.revision.abi.response(answer)
    headers.append(_EXECUTED)
    if not scope[CALLS_ONLY]:
        headers[:0] = _SANDBOX  # before the guest's own: of two X-Content-Type-Options, browsers take the first
    if call.rights.exposes_usage:
        headers += usage(answer)
    head = scope["method"] == "HEAD"
    if status in _BODILESS:
        return status, headers, b""
    if body or not head:  # a guest that knows HEAD sends no body, and its length would be wrong
        headers.append((_LENGTH, b"%d" % len(body)))
    return status, headers, b"" if head else body
