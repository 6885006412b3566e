"""The seal's layers tried once at start, beside the loop, with the identity and capabilities that the zygote has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from runner import probe
from runner.probe import Finding, ProbeError
from worker import capabilities, spawn
from worker.coordinator import audit
from worker.coordinator.poller import READ, Poller

_log = logging.getLogger("worker.coordinator")
_ANSWER_FD = spawn.FIRST_FD


class SealProbe:
    """A probe process and, when it has ended, its findings.

    Args:
        root: an empty directory.
        runner_uid: a uid of the runners' range, 0 where none can be taken.
        cgroup: the runners' cgroup, "" without one.
    """

    def __init__(self, poller: Poller, root: Path, runner_uid: int, cgroup: str = "") -> None:
        self.findings: Mapping[str, Finding] = {}
        self._poller = poller
        self._said = b""
        self._answer, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            program = spawn.Program(
                tuple(probe.command(root, runner_uid, cgroup, answer_fd=_ANSWER_FD)),
                fds={"answer": theirs},
                name_fds=False,
                capabilities=capabilities.permitted_for_zygote(),
            )
            self._process: spawn.Process | None = spawn.spawn(program)
        except BaseException:
            os.close(self._answer)
            raise
        finally:
            os.close(theirs)
        poller.add(self._answer, self._on_answer, READ)
        poller.add(self._process.pidfd, self._on_exit, READ)

    def children(self) -> dict[int, audit.Child]:
        """The probe while it runs, by pid, as the audit knows a child."""
        process = self._process
        return {process.pid: audit.Child("the probe", self._poller.hears(process.pidfd))} if process is not None else {}

    def fds(self) -> dict[int, str]:
        """Our descriptors of it, and what they are."""
        process = self._process
        return {self._answer: "the probe's answer", process.pidfd: "the probe's pidfd"} if process is not None else {}

    def pids(self) -> list[int]:
        return [self._process.pid] if self._process is not None else []

    def close(self) -> None:
        """End it, if it still runs."""
        if self._process is not None:
            self._process.send(9)
            os.waitpid(self._process.pid, 0)
            self._let_go(self._process)

    def _on_answer(self, _: int) -> None:
        data = os.read(self._answer, 4096)
        self._said += data
        if not data:
            self._poller.remove(self._answer)

    def _on_exit(self, _: int) -> None:
        process = self._process
        if process is None or (how := process.reap()) is None:
            return
        while data := os.read(self._answer, 4096):
            self._said += data
        self._let_go(process)
        try:
            self.findings = probe.parse(self._said.decode(errors="replace"))
        except ProbeError as error:
            _log.error("the seal's layers could not be probed: %s (%s)", error, how)
            return
        if probe.level(self.findings) == probe.UNSEALED:
            _log.critical("UNSEALED: only --allow-unsealed lets this worker run tasks here")
        if missing := probe.missing(self.findings):
            _log.warning("the seal is reduced: %s missing; `galago-worker doctor` explains", ", ".join(missing))

    def _let_go(self, process: spawn.Process) -> None:
        self._process = None
        for fd in (self._answer, process.pidfd):
            self._poller.remove(fd)
            os.close(fd)
