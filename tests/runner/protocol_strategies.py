"""What hypothesis makes the conversations of. Bounded as the wire is."""

from __future__ import annotations

from hypothesis import strategies as st

from runner.protocol import F64, MAX_DETAIL_BYTES, call, control, spawn, status

u8 = st.integers(0, 2**8 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
values = st.tuples(st.integers(0, F64), u64)
strings = st.binary(max_size=40)
paths = strings.map(lambda path: path.replace(b"\0", b"/"))
bindings = st.lists(st.tuples(paths, paths, st.booleans()), max_size=5).map(tuple)
details = st.text(max_size=MAX_DETAIL_BYTES // 4)  # a character is at most four bytes, so none is cut

outcomes = st.builds(
    status.Outcome,
    u64,
    st.sampled_from(status.REASONS),
    trap_code=st.none() | st.sampled_from(status.TRAP_CODES),
    exit_code=st.none() | i32,
    fuel_used=u64,
    init_us=u64,
    run_us=u64,
    cpu_us=u64,
    peak_memory_bytes=u64,
    stdout_truncated=st.booleans(),
    stderr_truncated=st.booleans(),
    results=st.lists(values, max_size=20).map(tuple),
    detail=details,
)
# What a job and a service have alike: their limits, and what their guest starts with.
LIMITS = {"fuel": u64, "memory_bytes": u64, "wall_ms": u32, "output_bytes": u64}
START = {
    "export": strings,
    "args": st.lists(strings, max_size=10).map(tuple),
    "env": st.lists(strings, max_size=10).map(tuple),
    "preopens": bindings,
}
jobs = st.builds(
    control.Job, u64, entry=u8, flags=u8, params=st.lists(values, max_size=10).map(tuple), **LIMITS, **START
)
spawns = st.builds(spawn.Spawn, u64, u8, u32, u32, bindings)
variables = st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\0", b"=")), max_size=10)
serves = st.builds(
    control.Serve,
    u8,
    record=u32,
    reuse_calls=u32,
    reuse_memory_bytes=u64,
    recycle_calls=u32,
    recycle_cpu_us=u64,
    params=st.lists(u8, max_size=10).map(tuple),
    results=st.lists(u8, max_size=10).map(tuple),
    **LIMITS,
    **START,
)
answers = st.builds(
    call.Answer,
    st.sampled_from(status.REASONS),
    st.binary(max_size=200),
    trap_code=st.none() | st.sampled_from(status.TRAP_CODES),
    exit_code=st.none() | i32,
    fuel_used=u64,
    queue_us=u64,
    init_us=u64,
    run_us=u64,
    peak_memory_bytes=u64,
    detail=details,
)


def fields(message: object) -> dict[str, object]:
    """A message's fields: the wire's classes have slots and no equality, for the sake of the fork that carries them."""
    return {name: getattr(message, name) for name in type(message).__slots__}  # type: ignore[attr-defined]
