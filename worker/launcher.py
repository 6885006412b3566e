"""The launcher: owns listeners and shared memory, keeps coordinator and gunicorn running, passes signals on.

It starts both, hears their heartbeats, and restarts what is dead or silent (`worker.supervise`). SIGTERM or SIGINT ends
all in order (`worker.drain`), a second one at once; SIGHUP reads the configuration again. Its own death ends all, by
PDEATHSIG. It holds no state that a restart would miss.
"""

from __future__ import annotations

import logging
import os
import resource
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from worker import capabilities, cgroup, config_values, datadir, drain, listeners
from worker.config import Config, restart_only
from worker.config_values import COMMANDS_SOCKET
from worker.drain import Budget, Drain, Facts, Order
from worker.errors import ConfigError, ExitCode, WorkerError
from worker.handover import Handover
from worker.heartbeat import BEAT_MS
from worker.notify import Notifier
from worker.reach import can_load
from worker.spawn import Program, python, python_env
from worker.supervise import Policy
from worker.supervised import Supervised

_log = logging.getLogger("launcher")
# Enough for all connections and runners; more only makes programs slow that close every possible fd.
MAX_OPEN_FILES = 1 << 16
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Programs:
    """What is started as coordinator and as API; tests put others in their place."""

    coordinator: tuple[str, ...] = field(default_factory=lambda: python("worker.coordinator"))
    api: tuple[str, ...] = field(default_factory=lambda: python("worker.api.server"))
    env: dict[str, str] = field(default_factory=python_env)


class Launcher:
    """One worker. `run` returns when it has ended.

    Args:
        config: what `Config.resolve` gave.
        reload: reads the configuration again, on SIGHUP; raises ConfigError.
        env: the environment; NOTIFY_SOCKET and LISTEN_FDS are taken out of it.
        programs: for tests.
    """

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        env: MutableMapping[str, str],
        programs: Programs | None = None,
    ) -> None:
        self._loaded = config
        self._reload = reload
        self._programs = programs or Programs()
        self._notifier = Notifier(env)
        self._env = env
        self._selector = selectors.DefaultSelector()
        self._drain = Drain()
        self._signals: list[int] = []
        self._announced = False

    def run(self) -> ExitCode:
        """Serve until told to end.

        Returns:
            OK after an orderly end, FORCED after a second signal.

        Raises:
            WorkerError: it could not start, or a child never got ready; its `exit_code` says which.
        """
        assert threading.active_count() == 1, "forks need a single-threaded launcher"
        with ExitStack() as stack:
            stack.callback(self._selector.close)
            self._prepare(stack)
            try:
                return self._supervise()
            finally:
                self._api.destroy()
                self._coordinator.destroy()

    # Preparation, in order

    def _prepare(self, stack: ExitStack) -> None:
        config = self._loaded
        os.umask(0o077)
        _raise_open_files()
        self._identity = datadir.identity_of(config.user)
        _check_uids(config, self._identity.uid if self._identity else None)
        self._listen(stack, config)
        capabilities.settle_launcher()
        self._read_code = self._code_capabilities()
        path = Path(config.data_dir)
        datadir.prepare(path, self._identity)
        self._lock_fd = datadir.lock(path)
        stack.callback(os.close, self._lock_fd)
        if config.cgroup:  # below the lock: the limits may be those of a worker that runs
            cgroup.prepare(config, self._identity)
        self._commands = stack.enter_context(listeners.bind_commands(path, self._identity))
        stack.callback((path / COMMANDS_SOCKET).unlink, missing_ok=True)
        self._handover = stack.enter_context(Handover(self._identity))
        self._handover.write(self._effective(config))
        self._receive_signals(stack)
        self._write_url(path, stack)
        policy = Policy(config.heartbeat_timeout_ms, config.start_timeout_ms)
        self._coordinator = Supervised(
            "coordinator", self._coordinator_program, policy, self._selector, self._handover.coordinator_gone
        )
        self._api = Supervised("gunicorn", self._api_program, policy, self._selector)

    def _code_capabilities(self) -> frozenset[int]:
        """What `--user` needs to load our code: nothing, where it is installed as it should be."""
        if self._identity is None or can_load(self._identity, self._programs.env):
            return frozenset()
        _log.warning(
            "uid %d of --user can't read %s or the packages there: coordinator and gunicorn's master keep "
            "CAP_DAC_READ_SEARCH, what parses HTTP drops it before it serves; better install it where that user reads",
            self._identity.uid,
            sys.executable,
        )
        return capabilities.READ_CODE

    def _listen(self, stack: ExitStack, config: Config) -> None:
        """The listeners, from systemd or bound: the first for everything, a second for calls alone."""
        inherited = listeners.inherited_tcp(self._env)
        wanted = [text for text in (config.bind, config.calls_bind) if text is not None]
        made = inherited or [listeners.bind_tcp(text) for text in wanted]
        self._listeners = [stack.enter_context(listener) for listener in made]
        if len(made) != len(wanted):
            right = (
                "given once for each socket that systemd passes" if len(made) > len(wanted) else "passed by systemd too"
            )
            raise ConfigError("--calls-bind", config.calls_bind or "", right)

    def _effective(self, config: Config) -> Config:
        """`config` with the addresses that are really listened on."""
        host, port = self._listeners[0].getsockname()[:2]
        return replace(config, bind=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def _receive_signals(self, stack: ExitStack) -> None:
        """Signals become bytes in a pipe; the handlers do nothing else."""
        self._wake_fd, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, self._wake_fd)
        stack.callback(os.close, theirs)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(theirs, warn_on_full_buffer=False))
        for number in _SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        self._selector.register(self._wake_fd, selectors.EVENT_READ)

    def _write_url(self, path: Path, stack: ExitStack) -> None:
        """`run/url`: where we listen, for people and programs that asked for port 0."""
        file = path / "run" / "url"
        temporary = file.with_name("url.new")
        temporary.write_text("".join(f"{listeners.url_of(listener)}\n" for listener in self._listeners))
        temporary.rename(file)
        stack.callback(file.unlink, missing_ok=True)

    def _coordinator_program(self, beat_fd: int) -> Program:
        fds = {
            "config": self._handover.config_fd,
            "page": self._handover.page_fd,
            "commands": self._commands.fileno(),
            "beat": beat_fd,
            "lock": self._lock_fd,
        }
        handed_on = capabilities.ZYGOTE - capabilities.READ_CODE if self._identity else frozenset[int]()
        return self._program(self._programs.coordinator, fds, handed_on | self._read_code)

    def _api_program(self, beat_fd: int) -> Program:
        fds = {
            "config": self._handover.config_fd,
            "page": self._handover.page_read_fd,
            "listen": self._listeners[0].fileno(),
            "beat": beat_fd,
            "lock": self._lock_fd,
            "tokens": self._handover.tokens_fd,
        }
        if len(self._listeners) > 1:
            fds["calls_listen"] = self._listeners[1].fileno()
        return self._program(self._programs.api, fds, self._read_code)

    def _program(self, argv: tuple[str, ...], fds: dict[str, int], ambient: frozenset[int]) -> Program:
        return Program(
            argv,
            env=self._programs.env,
            fds=fds,
            identity=self._identity,
            capabilities=ambient,
            cwd=self._loaded.data_dir,
        )

    # The loop

    def _supervise(self) -> ExitCode:
        children = (self._coordinator, self._api)
        for child in children:
            child.tick(_now_ms())
        while True:
            self._selector.select(self._patience_s(children))
            # Everything that was said is read before anyone is judged: we may have been stopped ourselves.
            now_ms = _now_ms()
            for child in children:
                child.hear(now_ms)
            for number in self._read_signals():
                if number != signal.SIGHUP and self._drain.phase is not drain.Phase.SERVING:
                    _log.warning("ending at once: %s came again", signal.Signals(number).name)
                    return ExitCode.FORCED
                self._on_signal(number)
            for child in children:
                child.tick(now_ms)
            self._announce()
            if self._drain.phase is not drain.Phase.SERVING:
                self._advance_drain()
            if self._drain.phase is drain.Phase.DONE:
                return ExitCode.OK
            if os.getpid() == 1:
                _reap_strangers({child.process.pid for child in children if child.process})

    def _patience_s(self, children: tuple[Supervised, ...]) -> float:
        due_ms = [child.state.start_at_ms - _now_ms() for child in children if not child.running]
        return max(0, min([BEAT_MS, *[ms for ms in due_ms if ms > 0]])) / 1000

    def _read_signals(self) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self._wake_fd, 64)
        return b""

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reread()
        elif number in _SIGNALS:
            _log.info("%s: ending in order, within %g s", signal.Signals(number).name, self._loaded.drain_s)
            self._notifier.stopping()
            self._drain, orders = drain.begin(self._facts())
            self._obey(orders)

    def _announce(self) -> None:
        if not self._announced and self._coordinator.ready and self._api.ready:
            self._announced = True
            self._notifier.ready()
            _log.info("serving at %s", ", ".join(listeners.url_of(listener) for listener in self._listeners))

    def _reread(self) -> None:
        """Read the configuration again; a wrong one changes nothing."""
        try:
            config = self._reload()
            for flag in restart_only(self._loaded, config):
                _log.warning("%s can't change while the worker runs and stays as it was", flag)
            # What was right with the rest of the new one need not be with what stays of the old. The directories of
            # each were looked at when it was read; one of the old may be gone by now, and stays as it was.
            config = _keep_restart_only(self._loaded, config)
            config_values.check_together(config)
            self._handover.write(self._effective(config))
        except WorkerError as exc:
            _log.error("SIGHUP changes nothing: %s", exc)
            return
        self._loaded = config
        _log.info("configuration read again")
        self._coordinator.send_when_ready(signal.SIGHUP)
        self._api.send_when_ready(signal.SIGHUP)

    # The end

    def _facts(self) -> Facts:
        return Facts(_now_ms(), self._api.running, self._coordinator.running, self._coordinator.drained)

    def _advance_drain(self) -> None:
        config = self._loaded
        budget = Budget(round(config.deregistration_delay_s * 1000), round(config.drain_s * 1000), config.stop_grace_ms)
        self._drain, orders = drain.advance(self._drain, self._facts(), budget)
        self._obey(orders)

    def _obey(self, orders: tuple[Order, ...]) -> None:
        for order in orders:
            match order:
                case Order.DRAIN_COORDINATOR:
                    self._handover.set_draining()
                    self._coordinator.order_stop(_now_ms())
                    self._coordinator.send(signal.SIGTERM)
                case Order.STOP_API:
                    self._api.order_stop(_now_ms())
                    for listener in self._listeners:
                        listener.close()  # gunicorn closes its own: from then on the kernel refuses
                    self._api.send(signal.SIGTERM)
                case Order.KILL_API:
                    self._api.send(signal.SIGKILL)
                case Order.STOP_COORDINATOR:
                    self._coordinator.send(signal.SIGTERM)
                case Order.KILL_COORDINATOR:
                    self._coordinator.send(signal.SIGKILL)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_uids(config: Config, uid: int | None) -> None:
    """Neither a runner, compiler, fetcher nor a volume's guests may share the uid of what parses HTTP."""
    last = config.runner_uid_first + config.max_runners + 1 + len(config.volumes)
    if uid is not None and config.runner_uid_first <= uid <= last:
        raise ConfigError("--runner-uid-first", config.runner_uid_first, f"such that uid {uid} of --user isn't within")


def _keep_restart_only(before: Config, after: Config) -> Config:
    kept = {option.name: getattr(before, option.name) for option in fields(Config) if not option.metadata["reload"]}
    return replace(after, **kept)


def _reap_strangers(ours: set[int]) -> None:
    """As a container's first process we inherit orphans: what PDEATHSIG killed after its parent had died."""
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in ours:
            os.waitpid(found.si_pid, 0)
