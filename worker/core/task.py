"""A task: what a manager asked for (`TaskSpec`) and how it stands (`Status`). Frozen; a change makes a new one.

Times of the record are microseconds since the epoch, UTC (`..._us` that ends a point in time); durations are
microseconds too and come from the monotonic clock. Memory is bytes, fuel is wasmtime's unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """Where a task stands. The coordinator alone changes it, through `lifecycle.step`."""

    PENDING = "pending"  # recorded, waiting for its module or a slot
    SCHEDULED = "scheduled"  # compiled, a slot is assigned, the runner is being made
    RUNNING = "running"  # the runner has started it
    COMPLETED = "completed"  # final: exit 0, an export returned, or stopped while running
    FAILED = "failed"  # final: everything else


FINAL = frozenset({State.COMPLETED, State.FAILED})


class Reason(StrEnum):
    """Why a task ended (DESIGN 5)."""

    EXIT = "exit"
    STOPPED = "stopped"
    NONZERO_EXIT = "nonzero_exit"
    TRAP = "trap"
    FUEL = "fuel"
    DEADLINE = "deadline"
    KILLED_DEADLINE = "killed_deadline"
    OOM_GUEST = "oom_guest"
    OOM_KERNEL = "oom_kernel"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    LOST = "lost"
    INIT_FAILED = "init_failed"
    FETCH_FAILED = "fetch_failed"
    COMPILE_FAILED = "compile_failed"
    LINK_FAILED = "link_failed"
    REFUSED = "refused"


class Kind(StrEnum):
    JOB = "job"
    SERVICE = "service"


class Isolation(StrEnum):
    PROCESS = "process"  # a fresh runner for this job alone
    INSTANCE = "instance"  # a fresh instance in a warm runner of the same module, token, limits and env


@dataclass(frozen=True, slots=True)
class Limits:
    """What a task may use: fuel, linear memory (bytes), run time (ms), output per stream (bytes)."""

    fuel: int = 10**9
    memory_bytes: int = 64 * 1024 * 1024
    wall_ms: int = 10_000
    output_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of an operator's volume: `path` within volume `volume`, seen by the guest as `guest`."""

    volume: str
    guest: str
    path: str = "."
    mode: str = "ro"


@dataclass(frozen=True, slots=True)
class Entry:
    """An export to call. `params` are (type name, raw 64 bits), already checked against the export's signature.

    `params_json` is what the manager wrote, kept to be given back. For a task posted with a module by URL alone, whose
    signature isn't known yet, `params` is None and the coordinator types `params_json` once the module is there.
    """

    export: str
    params: tuple[tuple[str, int], ...] | None
    params_json: bytes = b"[]"


@dataclass(frozen=True, slots=True)
class Handler:
    """How a call reaches the guest. `abi`: `wagi` (a WASI command that speaks CGI) or `export` (a function, by name).

    `params` and `results` are the export's number types, known once the module is here. `auth`: `none` or `token`;
    `on_disconnect`: `finish` or `cancel`; `retryable`: a call whose runner died may be given to another.
    """

    abi: str
    export: str = ""
    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    auth: str = "none"
    expose_usage: bool = False
    retryable: bool = False
    on_disconnect: str = "finish"


@dataclass(frozen=True, slots=True)
class Scale:
    """How many runners a revision has, how long one may idle before it is given up, and how many calls may wait."""

    min: int = 0
    max: int = 4
    idle_ms: int = 60_000
    queue: int = 256


@dataclass(frozen=True, slots=True)
class Reuse:
    """How many calls one instance may answer (1: a fresh one each), and the memory (bytes) past which it is dropped."""

    max_calls: int = 1
    max_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """What makes a task a service: which function's revision it is, and how that is called and kept."""

    function: str
    revision: str
    handler: Handler
    default: bool = False  # becomes the function's default once it is running
    scale: Scale = field(default_factory=Scale)
    reuse: Reuse = field(default_factory=Reuse)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a manager asked for, validated. `stdin_bytes` is the size of the blob `stdin/<task id>`, 0 without one.

    `service` is there for Kind.SERVICE alone; `queue_ms` is then how long a call may wait.
    """

    kind: Kind
    name: str
    digest: str | None  # "sha256:<hex>"; None until a fetch by URL has named it
    url: str | None = None
    entry: Entry | None = None
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stdin_bytes: int = 0
    limits: Limits = field(default_factory=Limits)
    queue_ms: int | None = None
    callback_url: str | None = None
    mounts: tuple[Mount, ...] = ()
    isolation: Isolation = Isolation.PROCESS
    unknown_imports: str = "deny"
    labels: tuple[tuple[str, str], ...] = ()
    retry_max: int = 0
    priority: int = 0
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a task used. `wall_us` = finished - created; queue, init, run as DESIGN 6; None where it never got there."""

    fuel_used: int | None = None
    wall_us: int | None = None
    queue_us: int | None = None
    init_us: int | None = None
    run_us: int | None = None
    cpu_us: int | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """The process that runs a task now: pid, uid, and the names of the seal's layers that it reported."""

    pid: int
    uid: int
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """How a task stands. `result` is a list of (type name, raw 64 bits) for an export that returned."""

    state: State = State.PENDING
    previous_state: State | None = None
    reason: Reason | None = None
    trap_code: str | None = None
    signal: str | None = None
    exit_code: int | None = None
    result: tuple[tuple[str, int], ...] | None = None
    detail: str | None = None
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)
    attempts: int = 1
    runner: RunnerInfo | None = None
    stopping: bool = False  # a stop is recorded, the end is not there yet
    scheduled_at_us: int | None = None
    started_at_us: int | None = None
    finished_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One task. `token` is the id of the token that posted it ("" without a token file): its owner for quotas."""

    id: str
    token: str
    spec: TaskSpec
    created_at_us: int
    status: Status = field(default_factory=Status)

    @property
    def final(self) -> bool:
        return self.status.state in FINAL
