"""The fetches that run: one helper process for each task that came with a module by URL, a few at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from runner.interface import check_entry, unknown_imports
from runner.module_caps import Caps
from worker.config import Config
from worker.coordinator import audit
from worker.coordinator.fetch import Fetch
from worker.coordinator.fetch_wire import Answer, FetchFailed, FetchRequest
from worker.coordinator.poller import READ, Poller
from worker.coordinator.want import Tries, is_passing
from worker.core import values
from worker.core.clock import Now
from worker.core.events import ModuleFetched
from worker.core.module import Module
from worker.core.node import Node
from worker.core.task import Reason, Task
from worker.errors import SpawnError
from worker.shared.blobs import Blobs, TemporaryBlob

# Each is a process of some 20 MB and one file being written; the rest wait their turn.
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Running:
    task: Task
    fetch: Fetch
    blob: TemporaryBlob


class Unfit(Exception):
    """The module came, and the task can't run it: the message says why."""


def caps_of(config: Config) -> Caps:
    """What static admission allows, of the configuration."""
    return Caps(
        max_functions=config.max_functions,
        max_data_segments=config.max_data_segments,
        max_imports=config.max_imports,
        max_exports=config.max_exports,
    )


def fit(task: Task, module: Module) -> ModuleFetched:
    """What the API checks of a task whose module is known when it is posted, checked now.

    Raises:
        Unfit: the worker lacks an import, or the entry can't be entered with the parameters given.
    """
    lacking = unknown_imports(module)
    if task.spec.unknown_imports == "deny" and lacking:
        named = ", ".join(f"{wanted.module}.{wanted.name}" for wanted in lacking[:5])
        raise Unfit(f"the module imports what is not here: {named}; functions can be stubbed")
    entry, service = task.spec.entry, task.spec.service
    export = entry.export if entry else None
    if service is not None:
        export = service.handler.export or None
    wrong = check_entry(module, export)
    if wrong:
        raise Unfit("; ".join(wrong))
    if export is None:
        return ModuleFetched(module.digest)
    entered = next(offered for offered in module.exports if offered.name == export)
    if entry is None:
        return ModuleFetched(module.digest, signature=(entered.params, entered.results))
    if entry.params is not None:
        return ModuleFetched(module.digest)
    try:
        return ModuleFetched(module.digest, values.read_params(entry.params_json, entered.params))
    except values.BadParam as error:
        raise Unfit(str(error)) from error


class Fetches:
    """Starts, watches and ends fetchers; tells the core what came of each."""

    def __init__(
        self, config: Config, poller: Poller, blobs: Blobs, node: Node, clock: Callable[[], Now], uid: int
    ) -> None:
        """`uid`: the fetchers' own, 0 where none can be taken."""
        self._config = config
        self._uid = uid
        self._poller = poller
        self._blobs = blobs
        self._node = node
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._waiting: deque[Task] = deque()
        # Since a start worked last: where the machine lacks something for long, each that waits has one more try.
        self._tries = Tries()
        self._tried_later = False

    def children(self) -> dict[int, audit.Child]:
        """The fetchers, by pid, as the audit knows a child."""
        return {
            running.fetch.pid: audit.Child(f"the fetcher for {task_id}", self._poller.hears(running.fetch.pidfd))
            for task_id, running in self._running.items()
        }

    def fds(self) -> dict[int, str]:
        """Our descriptors of them, and what they are."""
        found = {}
        for task_id, running in self._running.items():
            found[running.fetch.fileno()] = f"the fetcher for {task_id}: its answer"
            found[running.fetch.pidfd] = f"the fetcher for {task_id}: pidfd"
            found[running.blob.fileno()] = f"the fetcher for {task_id}: the module"
        return found

    def pids(self) -> list[int]:
        return [running.fetch.pid for running in self._running.values()]

    def start(self, task: Task) -> None:
        if not self._waiting:
            self._tries = Tries()
        self._waiting.append(task)
        self._start_next()

    def cancel(self, task_id: str) -> None:
        """The task is final: its fetch is of no use."""
        self._waiting = deque(task for task in self._waiting if task.id != task_id)
        running = self._running.get(task_id)
        if running is not None:
            running.fetch.kill("nobody waits for it any more")

    def kill_overdue(self) -> None:
        """Kill the fetchers that have had their time and more."""
        for running in self._running.values():
            running.fetch.kill_if_overdue(time.monotonic())

    def close(self) -> None:
        """End them all; their tasks go on at the next start."""
        self._waiting.clear()
        for running in list(self._running.values()):
            running.fetch.kill("the worker ends")
            while running.fetch.on_exited() is None:
                time.sleep(0.001)
            self._let_go(running)

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE and not self._tried_later:
            task = self._waiting[0]
            try:
                self._start(task)
            except (OSError, SpawnError) as error:
                if is_passing(error) and not self._tries.over:
                    self._tried_later = True
                    self._poller.later(self._tries.next_wait_s(), self._start_again)
                    return
                detail = self._tries.told(f"it can't be begun: {error}")
                self._node.refused(task.id, Reason.FETCH_FAILED, detail, self._clock())
            else:
                self._tries = Tries()
            self._waiting.popleft()

    def _start_again(self) -> None:
        self._tried_later = False
        self._start_next()

    def _start(self, task: Task) -> None:
        blob = self._blobs.new_temporary()
        try:
            request = FetchRequest(
                url=task.spec.url or "",
                digest=task.spec.digest,
                max_bytes=self._config.max_module_bytes,
                timeout_s=self._config.fetch_timeout_s,
                caps=caps_of(self._config),
                fetch_allow=self._config.fetch_allow,
                file_dirs=self._config.file_dirs,
                uid=self._uid,
                allow_unsealed=self._config.allow_unsealed,
            )
            fetch = Fetch(request, blob.fileno())
        except BaseException:
            blob.discard()
            raise
        running = _Running(task, fetch, blob)
        self._running[task.id] = running
        self._poller.add(fetch.fileno(), lambda _: self._on_readable(fetch), READ)
        self._poller.add(fetch.pidfd, lambda _: self._on_exited(running), READ)

    def _on_readable(self, fetch: Fetch) -> None:
        if not fetch.on_readable():
            self._poller.remove(fetch.fileno())

    def _on_exited(self, running: _Running) -> None:
        answer = running.fetch.on_exited()
        if answer is None:
            return
        self._let_go(running)
        self._conclude(running, answer)
        self._start_next()

    def _let_go(self, running: _Running) -> None:
        del self._running[running.task.id]
        self._poller.remove(running.fetch.fileno())
        self._poller.remove(running.fetch.pidfd)
        running.fetch.close()

    def _conclude(self, running: _Running, answer: Answer) -> None:
        task, now = running.task, self._clock()
        if isinstance(answer, FetchFailed):
            running.blob.discard()
            self._node.refused(task.id, Reason.FETCH_FAILED, f"{answer.code}: {answer.detail}", now)
            return
        module = Module(answer.digest, answer.size_bytes, answer.imports, answer.exports, now.wall_us)
        name = running.blob.name
        running.blob.release()
        try:
            self._node.module_fetched(module, name, task, fit(task, module))
        except Unfit as error:
            self._node.module_fetched(module, name, task, None)
            self._node.refused(task.id, Reason.LINK_FAILED, str(error), now)
