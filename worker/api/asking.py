"""Asking a runner: one connection to a service's listening socket is one call, and the kernel picks the runner.

What becomes of a call is told by how its connection ends:

| the socket says | executed |
| --- | --- |
| connect: EAGAIN | no: the queue is full |
| connect: ECONNREFUSED, ENOENT | no: nobody listens |
| EPIPE, ECONNRESET, before anything came back | no: whoever had it did not read it to its end |
| EOF, before a whole answer | maybe: it was read |
| an answer | yes |

All sockets are in an epoll of their own, of which the loop sees one descriptor: cheaper than a reader of the loop for
each. Their deadlines are looked at together, every DEADLINE_TICK_S, while there are any.
"""

from __future__ import annotations

import array
import asyncio
import enum
import fcntl
import select
import socket
import struct
import termios
import time
from _socket import socket as Socket  # without what `socket.socket` adds in Python: 2 us a call
from collections.abc import Callable

from runner.errors import ProtocolError
from runner.protocol.call import ANSWER_HEAD, MARK, Answer, answer_length, decode_answer
from worker.api.routes import Revision

DEADLINE_TICK_S = 0.01
# A runner is killed so long after `wall_ms`, by its own alarm or by the coordinator that reads the records.
KILL_GRACE_S = 0.4
# A tick of the runner's epoch: the first that falls into a call sends the mark, and a deadline ends at one.
MARK_TICK_S = 0.005
_SOCKET_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_FIRST_READ_BYTES = 64 * 1024
_READ_BYTES = 1024 * 1024
_UCRED = struct.Struct("3i")  # pid, uid, gid (unix(7), SCM_CREDENTIALS)
_ANCILLARY_BYTES = socket.CMSG_SPACE(_UCRED.size)


class End(enum.Enum):
    """How a call came back that got no answer."""

    FULL = "full"  # as many wait as may: not executed
    REFUSED = "refused"  # nobody listens: not executed
    DROPPED = "dropped"  # whoever accepted it did not read it: not executed
    UNREAD = "unread"  # nobody took it in time: not executed
    DIED = "died"  # it was read: maybe
    KILLED = "killed"  # it ran for longer than it may: executed, for some time
    BROKEN = "broken"  # what came back is no answer: maybe


# What NOT_EXECUTED says may be given to another runner, now or once there is one.
NOT_EXECUTED = frozenset((End.REFUSED, End.DROPPED))

# What a service may say (`retryable`) may be given to another all the same.
MAYBE_EXECUTED = frozenset((End.DIED, End.BROKEN))

Broken = Callable[[str, int, str], None]
Done = Callable[["Answer | End"], None]


class Asked:
    """One call under way. `done` is told the answer, or how the call ended without one, once."""

    __slots__ = (
        "done",
        "due_s",
        "marked_s",
        "pid",
        "received",
        "revision",
        "sock",
        "taken",
        "unsent",
        "wall_s",
        "whole",
    )

    def __init__(
        self,
        done: Done,
        sock: Socket,
        revision: Revision,
        wall_s: float,
        due_s: float,
    ) -> None:
        self.done = done
        self.sock = sock
        self.revision = revision
        self.wall_s = wall_s
        self.due_s = due_s
        self.unsent: memoryview | None = None
        self.received: bytearray | None = None
        self.whole = 0  # the answer's length, once its head is here
        self.marked_s = 0.0
        self.taken = False  # its request was read whole: the deadline is the run's
        self.pid = 0


class Asker:
    """Every call of one API worker that is with a runner. To be used from one event loop.

    Args:
        report_broken: told (task id, pid or 0, detail) of a runner that answered what is no answer.
        now_s: CLOCK_MONOTONIC.
    """

    def __init__(self, report_broken: Broken, now_s: Callable[[], float] = time.monotonic) -> None:
        self._report_broken = report_broken
        self._now_s = now_s
        self._asked: dict[int, Asked] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoll: select.epoll | None = None
        self._ticking = False

    def close(self) -> None:
        """Whoever still waits is told that it isn't known what became of it."""
        for fd, asked in list(self._asked.items()):
            self._end(fd, asked, End.DIED)
        if self._epoll is not None and self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def ask(self, revision: Revision, message: bytes, wall_s: float, queue_until_s: float, done: Done) -> Asked | End:
        """Send a call to whichever runner takes it. Who gives up waiting calls `drop`.

        Args:
            revision: whose runner.
            message: CALL's bytes.
            wall_s: how long it may run.
            queue_until_s: by when it must have been read, on the clock.
            done: told how it ended, later.

        Returns:
            The call under way, or how it ended at once.

        Raises:
            OSError: there is no descriptor or no memory for a socket; nothing was sent.
        """
        if self._epoll is None:
            self._open()
        assert self._epoll is not None
        assert self._loop is not None
        sock = Socket(socket.AF_UNIX, _SOCKET_TYPE)
        try:
            sock.connect(revision.address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            fd = sock.fileno()
            self._epoll.register(fd, select.EPOLLIN)
            sent = sock.send(message)
        except OSError as exc:
            sock.close()
            return _refusal(exc)
        asked = self._asked[fd] = Asked(done, sock, revision, wall_s, queue_until_s)
        if sent < len(message):
            asked.unsent = memoryview(message)[sent:]
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(DEADLINE_TICK_S, self._tick)
        return asked

    def drop(self, asked: Asked) -> None:
        """Close the connection of a call that nobody waits for any more; `done` is not told."""
        fd = asked.sock.fileno()
        if fd >= 0:
            del self._asked[fd]
            asked.sock.close()

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    # What comes back

    def _turn(self) -> None:
        assert self._epoll is not None
        ready = [(fd, events, self._asked[fd]) for fd, events in self._epoll.poll(0, len(self._asked) + 1)]
        for fd, events, asked in ready:
            if asked.sock.fileno() != fd:  # dropped by who was told before it, and another may have its number
                continue
            if events & ~select.EPOLLOUT:
                self._receive(fd, asked)
            elif asked.unsent is not None:
                self._send(fd, asked)

    def _send(self, fd: int, asked: Asked) -> None:
        assert asked.unsent is not None
        assert self._epoll is not None
        try:
            asked.unsent = asked.unsent[asked.sock.send(asked.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            return  # what came back, or that nothing did, is told by reading
        if not asked.unsent:
            asked.unsent = None
            self._epoll.modify(fd, select.EPOLLIN)

    def _receive(self, fd: int, asked: Asked) -> None:
        try:
            data, ancillary, _, _ = asked.sock.recvmsg(
                _FIRST_READ_BYTES if asked.received is None else _READ_BYTES, _ANCILLARY_BYTES
            )
        except BlockingIOError:
            return
        except OSError:
            self._end(fd, asked, End.DROPPED if self._untouched(asked) else End.DIED)
            return
        if not data:
            self._end(fd, asked, self._why_gone(asked))
            return
        if ancillary:
            asked.pid = _UCRED.unpack(ancillary[0][2][: _UCRED.size])[0]
        try:
            answer = self._read(asked, data)
        except ProtocolError as exc:
            self._report_broken(asked.revision.task_id, asked.pid, str(exc))
            self._end(fd, asked, End.BROKEN)
            return
        if answer is not None:
            self._end(fd, asked, answer)

    def _read(self, asked: Asked, data: bytes) -> Answer | None:
        """The whole answer, once that is here."""
        if asked.received is None:
            if not asked.marked_s and data.startswith(MARK):
                asked.marked_s = self._now_s()
                asked.due_s = asked.marked_s + asked.wall_s + KILL_GRACE_S
                data = data[1:]
                if not data:
                    return None
            if len(data) >= ANSWER_HEAD.size:
                asked.whole = answer_length(data, asked.revision.most_answer_bytes)
                if len(data) == asked.whole:
                    return decode_answer(data)
            asked.received = bytearray(data)
        else:
            asked.received += data
            if not asked.whole and len(asked.received) >= ANSWER_HEAD.size:
                asked.whole = answer_length(bytes(asked.received[: ANSWER_HEAD.size]), asked.revision.most_answer_bytes)
        if asked.whole:
            if len(asked.received) > asked.whole:
                raise ProtocolError(f"an answer of {asked.whole} bytes is followed by more")
            if len(asked.received) == asked.whole:
                return decode_answer(bytes(asked.received))
        return None

    @staticmethod
    def _untouched(asked: Asked) -> bool:
        """Nothing has come back of it: a connection that was reset was not read to its end."""
        return not asked.marked_s and asked.received is None

    def _why_gone(self, asked: Asked) -> End:
        if asked.unsent is not None and self._untouched(asked):
            return End.DROPPED  # a runner starts nothing before the whole request is read
        ran_s = self._now_s() - asked.marked_s + MARK_TICK_S
        if asked.marked_s and asked.received is None and ran_s >= asked.wall_s:
            return End.KILLED
        return End.DIED

    # Time

    def _tick(self) -> None:
        assert self._loop is not None
        if self._epoll is None:  # closed meanwhile, and everybody told
            self._ticking = False
            return
        try:
            self._turn()  # whatever was said is heard before anyone is judged: we may have been stopped ourselves
            now_s = self._now_s()
            for fd, asked in [found for found in self._asked.items() if found[1].due_s <= now_s]:
                if asked.sock.fileno() == fd:
                    self._overdue(fd, asked, now_s)
        finally:  # whatever one of them made of its end, the others have theirs
            self._ticking = bool(self._asked)
            if self._ticking:
                self._loop.call_later(DEADLINE_TICK_S, self._tick)

    def _overdue(self, fd: int, asked: Asked, now_s: float) -> None:
        """It waited as long as it may. A runner that has read it may be running it: that is waited for."""
        if asked.marked_s:
            self._end(fd, asked, End.KILLED)
        elif asked.taken:
            self._end(fd, asked, End.DIED)
        elif asked.unsent is None and _unread_bytes(fd) == 0:
            asked.taken = True
            asked.due_s = now_s + asked.wall_s + KILL_GRACE_S
        else:
            asked.sock.shutdown(socket.SHUT_RDWR)  # who reads it to its end now finds us gone, and starts nothing
            unread = asked.unsent is not None or _unread_bytes(fd) > 0
            self._end(fd, asked, End.UNREAD if unread else End.DIED)

    def _end(self, fd: int, asked: Asked, result: Answer | End) -> None:
        del self._asked[fd]
        asked.sock.close()  # that takes it out of the epoll, too
        asked.done(result)


def _refusal(exc: OSError) -> End:
    if isinstance(exc, BlockingIOError):
        return End.FULL
    if isinstance(exc, ConnectionRefusedError | FileNotFoundError):
        return End.REFUSED
    if isinstance(exc, BrokenPipeError | ConnectionResetError):
        return End.DROPPED
    raise exc


def _unread_bytes(fd: int) -> int:
    """What the other end hasn't read of what we sent (unix(7), SIOCOUTQ), with the kernel's own overhead."""
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.TIOCOUTQ, size)
    return size[0]
