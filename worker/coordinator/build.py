"""The coordinator put together: every part made once, in the order of who needs whom, and let go in reverse."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runner import settings
from worker import capabilities, cgroup
from worker.config import Config
from worker.config_values import CALLS_DIRECTORY, RUNNER_OVERHEAD_BYTES, TABLE_NAME
from worker.coordinator import audit_system
from worker.coordinator.artifact_store import ArtifactStore
from worker.coordinator.artifacts import ArtifactEvents, Artifacts
from worker.coordinator.auditor import Auditor, Parts
from worker.coordinator.background import Background
from worker.coordinator.blob_sweep import BlobSweep
from worker.coordinator.call_figures import Figures
from worker.coordinator.call_records import CallRecords
from worker.coordinator.calls import Calls
from worker.coordinator.commit import CommitThread
from worker.coordinator.compile import Compilation
from worker.coordinator.fetches import Fetches
from worker.coordinator.listeners import Listeners
from worker.coordinator.loop import ChannelAnswers, Loop, clock
from worker.coordinator.mac import load_or_create_key
from worker.coordinator.metrics import Metrics
from worker.coordinator.outputs import Outputs
from worker.coordinator.perform import Hands
from worker.coordinator.poller import Poller
from worker.coordinator.reports import Reports
from worker.coordinator.runners import Runners, RunnerSettings
from worker.coordinator.seal_probe import SealProbe
from worker.coordinator.servers import Servers
from worker.coordinator.serving import Recycling
from worker.coordinator.stats import Stats
from worker.coordinator.zygote import Zygote
from worker.coordinator.zygote_program import ZygoteProgram
from worker.core.jobs import JobSettings
from worker.core.node import Node, NodeSettings
from worker.core.retention import RetentionSettings
from worker.core.services import ServiceSettings
from worker.core.task import Task
from worker.heartbeat import Heartbeat
from worker.shared.blobs import Blobs
from worker.shared.channel import MAX_CONNECTIONS, Server
from worker.shared.faults import Fault, faults_of
from worker.shared.page import PageWriter
from worker.shared.table import TableReader, TableWriter

# Longer than a short job takes, shorter than anybody looks.
LAZY_COMMIT_US = 20_000
DAY_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Inherited:
    """Descriptors from the launcher: configuration, page (writable), the commands' listener, heartbeat pipe."""

    config: int
    page: int
    commands: int
    beat: int


def node_settings(config: Config) -> NodeSettings:
    """The core's part of the configuration."""
    jobs = JobSettings(
        slots=config.max_runners, init_us=config.init_ms * 1000, stop_grace_us=config.stop_grace_ms * 1000
    )
    services = ServiceSettings(init_us=config.init_ms * 1000, drain_us=round(config.service_drain_s * 1_000_000))
    return NodeSettings(
        jobs,
        services,
        max_queued=config.max_queued,
        max_open_per_token=config.max_open_tasks_per_token,
        lazy_commit_us=LAZY_COMMIT_US,
        runners_memory_bytes=config.max_runners_memory_bytes,
        runner_overhead_bytes=RUNNER_OVERHEAD_BYTES,
        retention=RetentionSettings(
            age_us=round(config.retention_days * DAY_US),
            tasks=config.retention_tasks,
            output_bytes=config.retention_output_bytes,
            module_bytes=config.retention_module_bytes,
        ),
    )


@contextmanager
def build(config: Config, inherited: Inherited) -> Iterator[Loop]:
    """A loop that is ready to run, with the table's tasks taken up.

    Raises:
        WorkerError: the table or a directory can't be used; the message says what to do.
    """
    data_dir = Path(config.data_dir)
    fault = faults_of(config.fault_dir)
    inherited_fds = frozenset(audit_system.open_fds())
    with ExitStack() as stack:
        blobs = Blobs(data_dir, fault)
        blobs.create()
        writer = TableWriter(data_dir / TABLE_NAME, config.durability, fault=fault)
        reader = TableReader(data_dir / TABLE_NAME)
        live, digests = reader.live(), reader.digests()
        functions, routes = reader.routes()
        blobs.sweep_temporary()
        blobs.sweep_orphans(frozenset(digests), frozenset(task.id for task in live))
        store = ArtifactStore(data_dir / "artifacts", load_or_create_key(data_dir / "mac.key"), fault)
        store.sweep()

        poller = Poller()
        stack.callback(poller.close)
        node = Node(node_settings(config))
        runner_uids = config.runner_uid_first if can_change_uid() else 0
        compiler_uid = runner_uids + config.max_runners if runner_uids else 0
        # One uid for all compilers, and one for all fetchers: none has what another could want, and they never meet.
        fetcher_uid = compiler_uid + 1 if compiler_uid else 0
        program = ZygoteProgram(config, data_dir, fetcher_uid + 1 if fetcher_uid else 0)
        zygote = Zygote(
            poller,
            program.start,
            config.heartbeat_timeout_ms * 1000,
            lambda: {*runners.pids().values(), *artifacts.pids(), *fetches.pids(), *trial.pids()},
            fault,
        )
        stack.callback(zygote.close)
        page = PageWriter(inherited.page)
        # Whoever was here before may have died between a commit and its announcement.
        announce(page, writer.event_seq, routes_changed=True)
        commits = CommitThread(writer, lambda seq, changed: announce(page, seq, routes_changed=changed), fault=fault)
        stack.callback(commits.close)
        outputs_reader = TableReader(data_dir / TABLE_NAME)
        stack.callback(outputs_reader.close)
        background = Background(poller)
        stack.callback(background.close)
        runners = Runners(
            RunnerSettings(runner_uids, node.settings.jobs.max_jobs_per_runner), poller, zygote, blobs, node, clock
        )
        events = ArtifactEvents(
            ready=lambda digest: node.artifact_ready(digest, clock()),
            failed=lambda digest, detail: node.artifact_failed(digest, detail, clock()),
            evicted=node.artifact_evicted,
        )
        artifacts = Artifacts(
            store,
            background,
            settings.fingerprint(),
            blobs.module_path,
            lambda then: Compilation(poller, zygote, compiler_uid, config.compile_memory_bytes, then),
            events,
            cache_bytes=config.artifact_cache_bytes,
            at_once=config.max_compilers,
            wall_us=config.compile_wall_s * 1_000_000,
            store_bytes=config.artifact_store_bytes,
        )
        stack.callback(artifacts.close)
        fetches = Fetches(config, poller, blobs, node, clock, fetcher_uid)
        stack.callback(fetches.close)
        server = Server(socket.socket(fileno=os.dup(inherited.commands)), fault=fault)
        stack.callback(server.close)
        trial = SealProbe(poller, data_dir / "run" / "empty", runner_uids, cgroup.runners_path(config.cgroup))
        stack.callback(trial.close)
        stats = Stats(config.worker_name, config.data_dir, lambda: trial.findings)
        calls = stack.enter_context(build_calls(config, poller, node, runners, blobs, fault))
        reports = Reports(node, reader, calls.figures, stats, zygote, lambda: trial.findings)
        rendering = Background(poller)  # of its own: no artifact waits for a reading of a thousand revisions
        stack.callback(rendering.close)
        metrics = Metrics(reports.reading, rendering, MAX_CONNECTIONS)
        outputs = Outputs(blobs, outputs_reader, background)
        parts = Parts(
            node=node,
            poller=poller,
            server=server,
            commits=commits,
            background=background,
            rendering=rendering,
            zygote=zygote,
            runners=runners,
            artifacts=artifacts,
            fetches=fetches,
            calls=calls,
            trial=trial,
            reader=reader,
            blobs=blobs,
            inherited=inherited_fds,
        )
        ours = range(runner_uids, runner_uids + config.max_runners + 2) if runner_uids else range(0)
        auditor = Auditor(config, parts, os.getpid(), ours)
        hands = Hands(
            ChannelAnswers(server),
            commits,
            artifacts,
            fetches,
            runners,
            calls,
            reports,
            metrics,
            outputs,
            auditor.document,
        )
        begun = begun_of(live, blobs) | {route.task_id for route in routes if route.routed}
        node.restore(live, digests, clock(), begun, functions)
        loop = Loop(
            node,
            hands,
            poller=poller,
            server=server,
            commits=commits,
            zygote=zygote,
            artifacts=artifacts,
            fetches=fetches,
            calls=calls,
            page=page,
            heartbeat=Heartbeat(inherited.beat),
            drain_us=round(config.drain_s * 1_000_000),
            sweep=BlobSweep(blobs, background, auditor.wanted_blobs).begin,
        )
        parts.loop_fds = loop.fds
        outputs.sweep()
        artifacts.trim_store()
        yield loop


@contextmanager
def build_calls(
    config: Config, poller: Poller, node: Node, runners: Runners, blobs: Blobs, fault: Fault
) -> Iterator[Calls]:
    """What the coordinator has to do with calls. No listener outlives it: who connects later is told that none is."""
    with ExitStack() as stack:
        listeners = Listeners(
            Path(config.data_dir) / CALLS_DIRECTORY,
            poller,
            lambda task_id: node.traffic.call_waits(task_id, clock()),
            fault,
        )
        stack.callback(listeners.close_all)
        records = CallRecords(config.max_runners)
        stack.callback(records.close)
        recycling = Recycling(config.recycle_calls, config.recycle_cpu_s)
        servers = Servers(runners, listeners, records, blobs, recycling)
        yield Calls(node, listeners, servers, Figures(lambda task_id: task_id in node.tasks.live), clock)


def announce(page: PageWriter, event_seq: int, *, routes_changed: bool) -> None:
    """Tell API workers what is on disk now. The commit thread alone does so once it runs."""
    page.set_event_seq(event_seq)
    if routes_changed:
        page.set_route_generation(page.route_generation + 1)


def begun_of(live: list[Task], blobs: Blobs) -> frozenset[str]:
    """Tasks in their first attempt that have output files: these are made right before the fork, and for it alone."""
    return frozenset(task.id for task in live if task.status.attempts == 1 and blobs.output_paths(task.id)[0].exists())


def can_change_uid() -> bool:
    """Whether what we exec may give runners uids of their own: SETUID and SETGID are permitted here."""
    wanted = capabilities.mask((capabilities.Capability.SETUID, capabilities.Capability.SETGID))
    return capabilities.read().permitted & wanted == wanted
