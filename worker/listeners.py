"""The sockets that the launcher owns, so that no death of a child closes one: TCP for HTTP, and the commands socket."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from worker.config_values import COMMANDS_SOCKET, split_address
from worker.errors import BindError, DataDirectoryError
from worker.spawn import Identity

# Connections that wait for accept(): a reload or restart of gunicorn must fit. The kernel caps it (net.core.somaxconn).
BACKLOG = 2048
COMMANDS_BACKLOG = 128
# systemd's first fd for socket activation (sd_listen_fds(3)).
SD_LISTEN_FDS_START = 3


def bind_tcp(text: str) -> socket.socket:
    """Listen on `text`, a HOST:PORT that the configuration has checked.

    Raises:
        BindError: the name doesn't resolve, or the kernel refused.
    """
    address = split_address(text)
    assert address is not None, "checked by the configuration"
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as exc:
        raise BindError(f"{text} can't be listened on: {exc}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(resolved)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise BindError(f"{text} can't be listened on: {exc.strerror}; free it, or choose another --bind") from exc
    return listener


def inherited_tcp(env: MutableMapping[str, str]) -> list[socket.socket]:
    """The listeners that systemd passed to this very process (LISTEN_FDS), in its order; none without it."""
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    listeners = []
    for fd in range(SD_LISTEN_FDS_START, SD_LISTEN_FDS_START + int(count)):
        try:
            listener = socket.socket(fileno=fd)
            if listener.type != socket.SOCK_STREAM or listener.family not in (socket.AF_INET, socket.AF_INET6):
                raise BindError(f"file descriptor {fd} of LISTEN_FDS must be a listening TCP socket")
        except OSError as exc:
            raise BindError(f"file descriptor {fd} of LISTEN_FDS is no socket: {exc}") from exc
        listener.set_inheritable(False)
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def bind_commands(data_dir: Path, identity: Identity | None) -> socket.socket:
    """Listen at the commands socket of a data directory that we hold the lock of.

    Raises:
        DataDirectoryError: it can't be made.
    """
    path = data_dir / COMMANDS_SOCKET
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)  # a dead worker's: the lock says that no other lives
        listener.bind(str(path))
        path.chmod(0o600)
        if identity is not None:
            os.chown(path, identity.uid, identity.gid)
        listener.listen(COMMANDS_BACKLOG)
    except OSError as exc:
        listener.close()
        raise DataDirectoryError(f"{path} can't be listened on: {exc}") from exc
    return listener


def url_of(listener: socket.socket) -> str:
    """Where it can be reached, for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
