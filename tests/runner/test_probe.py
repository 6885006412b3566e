"""The probe: every layer is tried and explained, as root and as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from runner import probe
from runner.protocol import LAYERS, PROFILE_RUNNER
from runner.seal import layer_mask
from tests.runner.zygote_host import AS_NOBODY, ROOT, RUNNER_UID, ZygoteHost

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]


def probed(root: Path, uid: int, *wrapper: str, cgroup: str = "") -> dict[str, probe.Finding]:
    argv = [*wrapper, *probe.command(root, uid, cgroup)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return probe.parse(done.stdout)


def test_it_tells_about_every_layer(root_directory: Path) -> None:
    findings = probe.run(root_directory, 0)
    assert list(probe.HOW_TO_GET) == list(findings)
    assert set(LAYERS) <= set(findings)


def test_a_missing_layer_is_explained(root_directory: Path) -> None:
    findings = probe.run(root_directory, 0, cgroup=str(root_directory))
    missing = findings["cgroup"]
    assert (False, probe.HOW_TO_GET["cgroup"], True) == (missing.ok, missing.how_to_get, missing.wanted)
    assert "cgroup" in probe.missing(findings)
    assert not findings["uid"].ok
    assert [] == list(root_directory.iterdir())


def test_what_it_finds_a_runner_gets(
    root_directory: Path, zygote: ZygoteHost, artifact: Artifact, request: pytest.FixtureRequest
) -> None:
    """The probe and the zygote agree, for root and for an ordinary user."""
    wrapper = () if zygote.own_uid or os.geteuid() else AS_NOBODY
    findings = probed(root_directory, zygote.own_uid, *wrapper)
    run = zygote.spawn()
    run.load(artifact())
    found = frozenset(name for name, finding in findings.items() if finding.ok and name in LAYERS)
    assert layer_mask(found, PROFILE_RUNNER) == run.ready_layers()


@pytest.mark.root
def test_root_can_have_all_but_a_cgroup(root_directory: Path) -> None:
    findings = probed(root_directory, RUNNER_UID)
    assert {"cgroup"} == {name for name, finding in findings.items() if not finding.ok}
    assert ("full", []) == (probe.level(findings), probe.missing(findings)), "nobody asked for one"


@pytest.mark.root
def test_without_cap_kill_no_death_signal_reaches_another_uid(root_directory: Path) -> None:
    """The parent may change uids, and is no root: what the kernel asks when it dies is whether it may signal."""
    code = f"""import os, sys; sys.path.append({ROOT!r})
from worker import capabilities
from worker.capabilities import Capability
capabilities.keep_over_uid_change()
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
capabilities.pass_on({{Capability.SETUID, Capability.SETGID, Capability.DAC_OVERRIDE}})
os.execv(sys.argv[1], sys.argv[1:])"""
    findings = probed(root_directory, RUNNER_UID, sys.executable, "-c", code)
    assert (True, True, False) == (
        findings["uid"].ok,
        findings["pdeathsig"].ok,
        findings["pdeathsig_other_uid"].ok,
    )
    assert "CAP_KILL" in findings["pdeathsig_other_uid"].how_to_get


def test_a_probe_that_does_not_end_is_an_error(root_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "RUN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(probe, "command", lambda *_: [sys.executable, "-c", "import sys; sys.stdin.read()"])
    ours, theirs = os.pipe()
    monkeypatch.setattr(probe.subprocess, "run", partial(subprocess.run, stdin=ours))
    try:
        with pytest.raises(probe.ProbeError, match="did not end within"):
            probe.run(root_directory, 0)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("output", ["", "uid", "uid\tx", "colour\t0", "uid\t0\n" * 3])
def test_what_is_no_finding_is_an_error(output: str) -> None:
    with pytest.raises(probe.ProbeError):
        probe.parse(output)


@pytest.mark.parametrize(
    ("code", "says"), [(1, "Operation not permitted (EPERM)"), (159, "killed by signal 31"), (255, "the trial failed")]
)
def test_an_errno_is_put_in_words(code: int, says: str) -> None:
    output = "".join(f"{name}\t{code}\n" for name in probe.HOW_TO_GET)
    assert says in probe.parse(output)["uid"].why_not
