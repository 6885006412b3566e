"""A record read back from its blob is the record that was written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.core.module import Extern, Module
from worker.core.task import (
    Entry,
    Handler,
    Isolation,
    Kind,
    Limits,
    Mount,
    Reason,
    Reuse,
    RunnerInfo,
    Scale,
    Service,
    State,
    Status,
    TaskSpec,
    Usage,
)
from worker.shared.records import (
    pack_interface,
    pack_spec,
    pack_status,
    unpack_interface,
    unpack_spec,
    unpack_status,
)

_U63 = st.integers(0, 2**63 - 1)
_MAYBE_U63 = st.none() | _U63
_TEXT = st.text(max_size=20)
_MAYBE_TEXT = st.none() | _TEXT
_PAIRS = st.lists(st.tuples(_TEXT, _TEXT), max_size=4).map(tuple)
_VALUES = st.lists(st.tuples(_TEXT, st.integers(0, 2**64 - 1)), max_size=4).map(tuple)

_ENTRIES = st.builds(Entry, export=_TEXT, params=st.none() | _VALUES, params_json=st.binary(max_size=20))
_HANDLERS = st.builds(
    Handler,
    abi=_TEXT,
    export=_TEXT,
    params=st.lists(_TEXT, max_size=3).map(tuple),
    results=st.lists(_TEXT, max_size=3).map(tuple),
    auth=_TEXT,
    expose_usage=st.booleans(),
    retryable=st.booleans(),
    on_disconnect=_TEXT,
)
_SERVICES = st.builds(
    Service,
    function=_TEXT,
    revision=_TEXT,
    handler=_HANDLERS,
    default=st.booleans(),
    scale=st.builds(Scale, min=_U63, max=_U63, idle_ms=_U63, queue=_U63),
    reuse=st.builds(Reuse, max_calls=_U63, max_memory_bytes=_U63),
)
_SPECS = st.builds(
    TaskSpec,
    kind=st.sampled_from(Kind),
    name=_TEXT,
    digest=_MAYBE_TEXT,
    url=_MAYBE_TEXT,
    entry=st.none() | _ENTRIES,
    args=st.lists(_TEXT, max_size=4).map(tuple),
    env=_PAIRS,
    stdin_bytes=_U63,
    limits=st.builds(Limits, fuel=_U63, memory_bytes=_U63, wall_ms=_U63, output_bytes=_U63),
    queue_ms=_MAYBE_U63,
    callback_url=_MAYBE_TEXT,
    mounts=st.lists(st.builds(Mount, volume=_TEXT, guest=_TEXT, path=_TEXT, mode=_TEXT), max_size=3).map(tuple),
    isolation=st.sampled_from(Isolation),
    unknown_imports=_TEXT,
    labels=_PAIRS,
    retry_max=_U63,
    priority=_U63,
    service=st.none() | _SERVICES,
)
_USAGES = st.builds(
    Usage,
    **dict.fromkeys(
        ("fuel_used", "wall_us", "queue_us", "init_us", "run_us", "cpu_us", "peak_memory_bytes"), _MAYBE_U63
    ),
)
_STATUSES = st.builds(
    Status,
    state=st.sampled_from(State),
    previous_state=st.none() | st.sampled_from(State),
    reason=st.none() | st.sampled_from(Reason),
    trap_code=_MAYBE_TEXT,
    signal=_MAYBE_TEXT,
    exit_code=st.none() | st.integers(-(2**31), 2**31 - 1),
    result=st.none() | _VALUES,
    detail=_MAYBE_TEXT,
    truncated=st.booleans(),
    usage=_USAGES,
    attempts=_U63,
    runner=st.none() | st.builds(RunnerInfo, pid=_U63, uid=_U63, layers=st.lists(_TEXT, max_size=3).map(tuple)),
    stopping=st.booleans(),
    scheduled_at_us=_MAYBE_U63,
    started_at_us=_MAYBE_U63,
    finished_at_us=_MAYBE_U63,
)


@given(_SPECS)
def test_a_spec_survives_its_blob(spec: TaskSpec) -> None:
    assert spec == unpack_spec(pack_spec(spec))


@given(_STATUSES)
def test_a_status_survives_its_blob(status: Status) -> None:
    assert status == unpack_status(pack_status(status))


def test_an_interface_survives_its_blob() -> None:
    imports = (Extern("fd_write", "func", "wasi_snapshot_preview1", ("i32", "i32"), ("i32",)),)
    exports = (Extern("memory", "memory"), Extern("_start", "func"))
    module = Module("sha256:" + "0" * 64, 8, imports, exports, 1)
    assert (imports, exports) == unpack_interface(pack_interface(module))


def test_figures_are_written_even_where_they_are_the_default() -> None:
    """A later default must not change what an old task was allowed."""
    blob = pack_spec(TaskSpec(Kind.JOB, "n", None))
    blob += pack_spec(TaskSpec(Kind.SERVICE, "n", None, service=Service("f", "r", Handler("wagi"))))
    for name in (b"min", b"max", b"idle_ms", b"queue", b"max_calls", b"max_memory_bytes", b"auth", b"on_disconnect"):
        assert name in blob
    for name in (b"fuel", b"memory_bytes", b"wall_ms", b"output_bytes", b"retry_max", b"priority"):
        assert name in blob


def test_what_holds_nothing_takes_no_room() -> None:
    assert b"callback_url" not in pack_spec(TaskSpec(Kind.JOB, "n", None))
    assert 80 > len(pack_status(Status()))
