"""The steps of the seal: their order, what is left out where it can't be had, and what each does to a real process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import seal
from runner.errors import SealError
from runner.inherit import OOM_SCORE, Inheritance
from runner.protocol import LAYER_BITS, LAYERS, PROFILE_COMPILER, PROFILE_RUNNER
from runner.syscall_numbers import NUMBERS, number_of
from runner.syscalls import F_SEAL_WRITE, seals_of
from tests.runner.zygote_host import MIB, RUNNER_UID, Run, ZygoteHost

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]

ALL = frozenset(LAYERS)
STEPS = seal.STAGE_ONE + seal.BEFORE_LOAD + seal.STAGE_TWO
ORDER = [step.name for step in STEPS]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("identity", "mounts"),
        ("mounts", "chroot"),
        ("chroot", "uid"),
        ("uid", "capabilities"),
        ("uid", "pdeathsig"),
        ("uid", "nondumpable"),
        ("chroot", "landlock"),
        ("mounts", "landlock"),
        ("landlock", "rlimits"),
        ("processes", "seccomp"),
        ("mdwe", "seccomp"),
    ],
)
def test_an_order_that_matters_is_kept(first: str, then: str) -> None:
    assert ORDER.index(first) < ORDER.index(then)


def test_the_filter_is_last() -> None:
    assert "seccomp" == ORDER[-1]


def test_every_step_says_why_it_stands_there() -> None:
    assert [] == [step.name for step in STEPS if len(step.why) < 20]


def test_all_steps_are_planned_where_all_can_be_had() -> None:
    assert ORDER == [
        step.name for stage in (seal.STAGE_ONE, seal.BEFORE_LOAD, seal.STAGE_TWO) for step in seal.plan(stage, ALL)
    ]


@pytest.mark.parametrize("layer", ["chroot", "uid", "landlock", "mdwe", "seccomp", "pdeathsig", "nondumpable"])
def test_a_layer_that_can_not_be_had_is_left_out(layer: str) -> None:
    planned = [step.name for step in seal.plan(STEPS, ALL - {layer})]
    assert [name for name in ORDER if name != layer] == planned


def test_identity_mounts_and_capabilities_are_never_left_out() -> None:
    """A mount that can't be had has to be refused, and a uid too, instead of being forgotten."""
    assert ["identity", "mounts", "capabilities"] == [step.name for step in seal.plan(STEPS, frozenset())]


def test_the_mask_is_of_the_layers_that_are_there() -> None:
    layers = frozenset({"uid", "mdwe"})
    assert LAYER_BITS["uid"] | LAYER_BITS["mdwe"] == seal.layer_mask(layers, PROFILE_RUNNER)
    assert LAYER_BITS["uid"] == seal.layer_mask(layers, PROFILE_COMPILER)


def test_a_failed_step_is_named() -> None:
    def fail(_: seal.Subject) -> None:
        raise PermissionError(1, "no")

    subject = seal.Subject(Inheritance(b"/", 1, frozenset()), PROFILE_RUNNER, 1, 1)
    with pytest.raises(SealError) as failed:
        seal.apply_steps((seal.Step("uid", "because", fail),), subject)
    assert ("uid", 1) == (failed.value.step, failed.value.errno)


@pytest.mark.parametrize(("uid", "gid"), [(0, 5), (5, 0), (700, 5)])
def test_root_and_the_workers_user_are_refused(uid: int, gid: int) -> None:
    inheritance = Inheritance(b"/", 1, frozenset({0, 700}))
    inheritance.layers = frozenset({"uid"})
    subject = seal.Subject(inheritance, PROFILE_RUNNER, uid, gid)
    with pytest.raises(SealError, match="identity"):
        seal.apply_steps(seal.STAGE_ONE[:1], subject)


def test_where_no_uid_can_be_taken_it_stays() -> None:
    subject = seal.Subject(Inheritance(b"/", 1, frozenset()), PROFILE_RUNNER, 700, 700)
    seal.apply_steps(seal.STAGE_ONE[:1], subject)
    assert (os.getuid(), os.getgid()) == (subject.uid, subject.gid)


# -- what it does to a process ---------------------------------------------------------------------------------------


@pytest.fixture
def sealed(zygote: ZygoteHost, artifact: Artifact) -> Run:
    run = zygote.spawn()
    run.load(artifact(), memory_bytes=MIB, cpu_s=7)
    run.ready_layers()
    return run


def status(run: Run) -> dict[str, str]:
    lines = Path(f"/proc/{run.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_it_has_a_filter_and_no_way_to_privileges(sealed: Run) -> None:
    found = status(sealed)
    assert ("2", "1") == (found["Seccomp"], found["NoNewPrivs"])
    assert ["0" * 16] * 4 == [found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]


def test_every_thread_is_filtered(sealed: Run) -> None:
    tasks = list(Path(f"/proc/{sealed.pid}/task").glob("*/status"))
    assert 2 == len(tasks)
    assert all("Seccomp:\t2" in task.read_text() for task in tasks)


def test_its_limits_are_tight(sealed: Run) -> None:
    lines = Path(f"/proc/{sealed.pid}/limits").read_text().splitlines()
    hard = {line[:26].strip(): line[26:].split()[1] for line in lines}
    assert ["0", "0", "0", "8", "9"] == [
        hard[f"Max {name}"] for name in ("core file size", "locked memory", "processes", "open files", "cpu time")
    ]
    assert 64 * MIB == int(hard["Max file size"])
    assert int(hard["Max data size"]) < 256 * MIB


def test_it_is_the_first_to_go_when_memory_runs_out(sealed: Run) -> None:
    assert OOM_SCORE == int(Path(f"/proc/{sealed.pid}/oom_score_adj").read_text())


def test_its_root_is_empty(sealed: Run) -> None:
    if os.geteuid():
        pytest.skip("an ordinary user can't look into a process that is not dumpable")
    assert [] == os.listdir(f"/proc/{sealed.pid}/root")
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/{sealed.pid}/root/x").write_text("")


def test_it_has_name_spaces_of_its_own(sealed: Run) -> None:
    if os.geteuid():
        pytest.skip("an ordinary user can't look into a process that is not dumpable")
    for kind in ("net", "ipc", "uts", "mnt"):
        assert os.readlink(f"/proc/self/ns/{kind}") != os.readlink(f"/proc/{sealed.pid}/ns/{kind}")


@pytest.mark.root
def test_a_spare_is_no_root_any_more(start_zygote: Start, eventually: Callable[..., None]) -> None:
    """It waits for its artifact with all of stage one behind it."""
    run = start_zygote().spawn()
    eventually(lambda: f"{RUNNER_UID}\t" * 3 + str(RUNNER_UID) == status(run)["Uid"])
    eventually(lambda: status(run)["CapPrm"] == status(run)["CapEff"] == "0" * 16)


def test_the_seals_of_a_memfd_are_read() -> None:
    import fcntl

    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, 1033, F_SEAL_WRITE)
    assert F_SEAL_WRITE == seals_of(fd)
    os.close(fd)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_is_one_calls_alone(machine: str) -> None:
    numbers = [number_of(name, machine) for name in NUMBERS]
    known = [number for number in numbers if number is not None]
    assert len(known) == len(set(known))
