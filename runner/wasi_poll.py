"""poll_oneoff: clocks and stdio. It really blocks: a guest that sleeps is ended from outside alone (by SIGALRM)."""

from __future__ import annotations

import _thread
from struct import Struct
from time import monotonic_ns, time_ns

from runner import wasi_abi as abi

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from runner.wasi_memory import GuestMemory

# Far more than a program without files can wait for; each is looked at in Python, where no epoch reaches.
MAX_SUBSCRIPTIONS = 4096

_CLOCK = Struct("<QBxxxxxxxIxxxxQQH")  # userdata, tag, id, timeout, precision, flags
_FD = Struct("<QBxxxxxxxI")  # userdata, tag, fd
_EVENT = Struct("<QHBxxxxxQHxxxxxx")  # userdata, errno, type, nbytes, flags


def poll(
    memory: GuestMemory,
    descriptors: dict[int, int],
    started_ns: int,
    subscriptions_at: int,
    events_at: int,
    count: int,
    ready_at: int,
) -> int:
    """Wait until one of `count` subscriptions is ready, write the events of all that are: an errno.

    `descriptors` maps a guest's descriptor to its stream; `started_ns` is where the guest's monotonic clock began.

    Raises:
        Fault: subscriptions, events or the count of events lie outside of the guest's memory.
    """
    if not count:
        return abi.EINVAL  # nothing would ever end the wait
    if count > MAX_SUBSCRIPTIONS:
        return abi.ENOMEM
    subscriptions = bytes(memory.at(subscriptions_at, count * abi.SUBSCRIPTION_BYTES))
    memory.at(events_at, count * abi.EVENT_BYTES)
    memory.at(ready_at, 4)
    # (when it is ready, its event), in the order of the subscriptions
    waits: list[tuple[int, bytes]] = []
    for offset in range(0, len(subscriptions), abi.SUBSCRIPTION_BYTES):
        errno, when_ns, event = _read(subscriptions, offset, descriptors, started_ns)
        if errno:
            return errno
        waits.append((when_ns, event))
    first_ns = min([when_ns for when_ns, _event in waits])
    _sleep_until(first_ns)
    now_ns = max(monotonic_ns(), first_ns)
    events = [event for when_ns, event in waits if when_ns <= now_ns]
    memory.put(events_at, b"".join(events))
    memory.put_u32(ready_at, len(events))
    return abi.SUCCESS


def _read(data: bytes, offset: int, descriptors: dict[int, int], started_ns: int) -> tuple[int, int, bytes]:
    """One subscription as (errno, host's monotonic time at which it is ready, its event)."""
    userdata, tag, fd = _FD.unpack_from(data, offset)
    if tag == abi.EVENT_CLOCK:
        errno, when_ns = _clock_time(data, offset, started_ns)
        return errno, when_ns, _EVENT.pack(userdata, abi.SUCCESS, tag, 0, 0)
    if tag not in (abi.EVENT_FD_READ, abi.EVENT_FD_WRITE):
        return abi.EINVAL, 0, b""
    stream = descriptors.get(fd)
    if stream is None or (stream == abi.STDIN) != (tag == abi.EVENT_FD_READ):
        return abi.EBADF, 0, b""
    # Streams in memory and files are always ready; the size is wasmtime's own placeholder.
    return abi.SUCCESS, 0, _EVENT.pack(userdata, abi.SUCCESS, tag, 1, 0)


def _clock_time(data: bytes, offset: int, started_ns: int) -> tuple[int, int]:
    _userdata, _tag, clock, timeout_ns, _precision, flags = _CLOCK.unpack_from(data, offset)
    if flags & ~abi.SUBCLOCKFLAG_ABSTIME or clock > abi.CLOCK_MONOTONIC:
        return abi.EINVAL, 0
    if not flags & abi.SUBCLOCKFLAG_ABSTIME:
        return abi.SUCCESS, monotonic_ns() + timeout_ns
    if clock == abi.CLOCK_MONOTONIC:
        return abi.SUCCESS, started_ns + timeout_ns
    return abi.SUCCESS, monotonic_ns() + timeout_ns - time_ns()


def _sleep_until(when_ns: int) -> None:
    """Sleep on a lock that nobody gives back: a futex, where `time.sleep` would need another system call allowed."""
    lock = _thread.allocate_lock()
    lock.acquire()
    while (left_ns := when_ns - monotonic_ns()) > 0:
        lock.acquire(True, min(left_ns / 1e9, _thread.TIMEOUT_MAX))
