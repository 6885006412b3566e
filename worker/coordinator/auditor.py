"""Both views of the audit, gathered from everybody who has a part in them, and the document that is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from worker import cgroup
from worker.config import Config
from worker.config_values import TABLE_NAME
from worker.coordinator import audit_system
from worker.coordinator.artifacts import Artifacts
from worker.coordinator.audit import Child, CoreView, Runner, SystemView, checked, differences
from worker.coordinator.background import Background
from worker.coordinator.blob_sweep import BLOB_GRACE_S
from worker.coordinator.calls import Calls
from worker.coordinator.commit import CommitThread
from worker.coordinator.fetches import Fetches
from worker.coordinator.poller import Poller
from worker.coordinator.runners import Runners
from worker.coordinator.seal_probe import SealProbe
from worker.coordinator.zygote import Zygote
from worker.core.changes import InsertModule, InsertTask
from worker.core.node import Node
from worker.core.revision import Listening
from worker.errors import TableError
from worker.shared.blobs import Blobs
from worker.shared.channel import Server
from worker.shared.table import TableReader

# A reply holds 256 KiB: what is left out is counted.
MOST_DIFFERENCES, MOST_DETAIL = 500, 300
# Connections to the table: the writer's, and two readers'. SQLite keeps a descriptor a while where another connection
# of the process has locks on the same file.
_TABLE_FDS = {"": 6, "-wal": 6, "-shm": 2, ".lock": 1}
# A mapping keeps a duplicate of its descriptor, which Python doesn't tell.
_MAPPED = {"/memfd:galago-records (deleted)": 1, "/memfd:galago-page (deleted)": 1}


@dataclass(slots=True)
class Parts:
    """Everybody who knows something."""

    node: Node
    poller: Poller
    server: Server
    commits: CommitThread
    background: Background
    rendering: Background  # of metrics
    zygote: Zygote
    runners: Runners
    artifacts: Artifacts
    fetches: Fetches
    calls: Calls
    trial: SealProbe
    reader: TableReader
    blobs: Blobs
    inherited: frozenset[int]  # descriptors that were open before anything was made
    loop_fds: Callable[[], dict[int, str]] = field(default=dict)


class Auditor:
    """Takes both views in one go."""

    def __init__(self, config: Config, parts: Parts, pid: int, runner_uids: range) -> None:
        """`runner_uids` is empty where all have the coordinator's own."""
        self._parts = parts
        self._pid = pid
        self._uids = runner_uids
        self._cgroup = cgroup.runners_path(config.cgroup)
        data_dir = Path(config.data_dir).resolve()
        self._threads_files = (f"{data_dir}/", "/memfd:artifact", "anon_inode:sync")
        self._targets = {f"{data_dir / TABLE_NAME}{suffix}": count for suffix, count in _TABLE_FDS.items()} | _MAPPED

    def document(self) -> bytes:
        """`{differences: [{kind, detail}], checked: {...}}`."""
        core = self.core_view()
        try:
            system = self.system_view()
        except (OSError, TableError) as error:  # no descriptor is left, or the table can't be read
            told = [{"kind": "not_audited", "detail": str(error)[:MOST_DETAIL]}]
            return orjson.dumps({"differences": told, "checked": {}})
        found = differences(core, system)
        told = [{"kind": one.kind, "detail": one.detail[:MOST_DETAIL]} for one in found[:MOST_DIFFERENCES]]
        counts = {**checked(core, system), "left_out": len(found) - len(told)}
        return orjson.dumps({"differences": told, "checked": counts})

    def core_view(self) -> CoreView:
        parts, node = self._parts, self._parts.node
        pool = node.pool
        return CoreView(
            slots=pool.slots,
            slots_free=pool.free,
            memory_bytes=pool.memory_bytes,
            memory_free_bytes=pool.free_memory_bytes,
            runners={
                runner.id: Runner(
                    runner.slot, runner.memory_bytes, runner.pid, runner.uid if "uid" in runner.layers else None
                )
                for runner in pool.runners.values()
            },
            processes=parts.runners.ids(),
            tasks={task_id: live.task.status.state for task_id, live in node.tasks.live.items()},
            unsettled=frozenset((*node.ledger.unsettled(), *node.admission.inserting)),
            children=self._children(),
            births=parts.zygote.births,
            probing=bool(parts.trial.pids()),
            uids=self._uids,
            fds=self._fds(),
            targets=self._targets,
            threads_files=self._threads_files,
            disk_busy=len(parts.commits) + len(parts.background) > 0,
            listening=frozenset(
                task_id
                for task_id, revision in node.services.revisions.items()
                if revision.listening not in (Listening.CLOSED, Listening.SHUT)
            ),
            artifact_bytes=parts.artifacts.memory_bytes,
            artifact_sizes=parts.artifacts.sizes(),
            blobs=self.wanted_blobs(),
        )

    def system_view(self) -> SystemView:
        parts = self._parts
        tasks, counters = parts.reader.standing()
        cgroup_pids = audit_system.cgroup_pids(self._cgroup)
        pids = {*audit_system.own_children(), *(cgroup_pids or ())}
        return SystemView(
            pid=self._pid,
            processes=audit_system.processes(pids, self._uids),
            fds=audit_system.open_fds(),
            tasks=tasks,
            counters=counters,
            listeners=parts.calls.listeners.names(),
            blobs=frozenset(parts.blobs.unclaimed(BLOB_GRACE_S)),
            cgroup=cgroup_pids,
        )

    def _children(self) -> dict[int, Child]:
        parts = self._parts
        return {
            **parts.zygote.children(),
            **parts.runners.children(),
            **parts.artifacts.children(),
            **parts.fetches.children(),
            **parts.trial.children(),
        }

    def _fds(self) -> dict[int, str]:
        parts = self._parts
        return {
            **dict.fromkeys(parts.inherited, "inherited"),
            **parts.poller.fds(),
            **parts.server.fds(),
            parts.commits.fileno(): "the commit thread's eventfd",
            **parts.background.fds(),
            **parts.rendering.fds(),
            **parts.zygote.fds(),
            **parts.runners.fds(),
            **parts.artifacts.fds(),
            **parts.fetches.fds(),
            **parts.calls.listeners.fds(),
            **parts.calls.servers.fds(),
            **parts.trial.fds(),
            **parts.loop_fds(),
        }

    def wanted_blobs(self) -> frozenset[str]:
        """Temporary ones that are named by what is on its way to the disk."""
        node = self._parts.node
        names = {command.stdin_name for command in node.admission.inserting.values()} | node.module_blobs()
        for change in node.ledger.changes():
            if isinstance(change, InsertTask):
                names.add(change.stdin_name)
            elif isinstance(change, InsertModule):
                names.add(change.blob_name)
        return frozenset(names)
