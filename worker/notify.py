"""Telling systemd, by its datagram protocol (sd_notify(3)); silent without NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress


class Notifier:
    """Takes NOTIFY_SOCKET out of `env`, so that no child tells in our name."""

    def __init__(self, env: MutableMapping[str, str]) -> None:
        path = env.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path

    def tell(self, *lines: str) -> None:
        """Send assignments such as `READY=1`. Nobody listening is no error."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(lines).encode(), self._address)

    def ready(self) -> None:
        self.tell("READY=1", f"MAINPID={os.getpid()}")

    def stopping(self) -> None:
        self.tell("STOPPING=1")
