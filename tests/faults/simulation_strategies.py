"""What hypothesis makes the events of a simulation of."""

from __future__ import annotations

from hypothesis import strategies as st

from runner.protocol.status import REASONS
from worker.core.task import Handler, Isolation, Kind, Limits, Scale, Service, TaskSpec
from worker.core.verdict import Exit, Report

TOKENS = ("a", "b")
DIGESTS = tuple("sha256:" + letter * 64 for letter in "abc")
URL = "https://modules.example/x.wasm"
SIGNALS = ("SIGKILL", "SIGSEGV", "SIGALRM", "SIGXFSZ", "SIGXCPU", "SIGSYS")
HONEST_REASONS = ("exit", "nonzero_exit", "trap", "fuel", "deadline", "oom_guest", "output_limit")

any_index = st.integers(0, 10**6)
durations_us = st.sampled_from(
    [1, 1, 1_000, 1_000, 100_000, 150_000, 999_999, 1_000_000, 1_600_000, 5_000_000, 11_000_000, 3_600_000_000]
)
exits = st.builds(
    Exit,
    signal=st.none() | st.sampled_from(SIGNALS),
    code=st.sampled_from([0, 0, 1, 117]),
    cpu_us=st.integers(0, 10**9),
    oom_killed=st.booleans(),
)
figures = st.sampled_from([0, 5, 2**63, 2**64 - 1])
reports = st.builds(
    Report,
    st.sampled_from([*REASONS, *["stopped", "compile_failed"] * 4]),  # those that nobody believes come more often
    exit_code=st.sampled_from([None, 0, 3]),
    fuel_used=figures,
    run_us=figures,
    peak_memory_bytes=figures,
)
specs = st.builds(
    TaskSpec,
    kind=st.just(Kind.JOB),
    name=st.just("job"),
    digest=st.sampled_from([DIGESTS[0], DIGESTS[0], *DIGESTS, None]),
    url=st.sampled_from([None, URL]),
    limits=st.sampled_from([Limits(wall_ms=100), Limits(wall_ms=10_000)]),
    queue_ms=st.sampled_from([None, None, 0, 1_000]),
    isolation=st.sampled_from(Isolation),
    env=st.sampled_from([(), (("A", "b"),)]),
    retry_max=st.sampled_from([0, 0, 1, 2]),
    priority=st.integers(0, 2),
)

FUNCTIONS = ("f", "g")
REVISIONS = ("r1", "r2")
scales = st.sampled_from(
    [
        Scale(),
        Scale(max=1),
        Scale(min=1, max=2, idle_ms=1_000),
        Scale(max=3, idle_ms=100),
        Scale(min=2, max=2, idle_ms=0),
    ]
)
services = st.builds(
    Service,
    st.sampled_from(FUNCTIONS),
    st.sampled_from(REVISIONS),
    st.just(Handler("wagi")),
    st.booleans(),
    scales,
)
service_specs = st.builds(
    TaskSpec,
    kind=st.just(Kind.SERVICE),
    name=st.just("service"),
    digest=st.sampled_from([DIGESTS[0], *DIGESTS]),
    url=st.sampled_from([None, None, None, URL]),
    limits=st.sampled_from([Limits(wall_ms=100), Limits(wall_ms=10_000, memory_bytes=200 * 2**20)]),
    queue_ms=st.just(5_000),
    service=services,
)
