"""A keep-alive load that counts honestly: every request ends answered, or failed with what happened to it.

A server may close a connection on which no request is outstanding (an idle close, HTTP/1.1 allows it): counted apart
and not held against it. A close, a reset or a refusal with a request outstanding is a failure, whoever's fault it was.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What came of a load: `answered` with 200 in full, `failures` by kind, `idle_closes` between two requests."""

    answered: int = 0
    idle_closes: int = 0
    announced_closes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    pids: set[bytes] = field(default_factory=set)


class Load:
    """`connections` clients, each with one request outstanding at a time, until `stop()` is called."""

    def __init__(self, host: str, port: int, path: str = "/livez", connections: int = 16, pause_s: float = 0.0) -> None:
        self.tally = Tally()
        self._host = host
        self._port = port
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        self._connections = connections
        self._pause_s = pause_s
        self._stopped = asyncio.Event()

    @property
    def _stopping(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Every answer that is outstanding is waited for, no pause is."""
        self._stopped.set()

    async def run(self) -> Tally:
        await asyncio.gather(*(self._client() for _ in range(self._connections)))
        return self.tally

    async def _client(self) -> None:
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            except OSError as exc:
                self.tally.failures[f"connect {type(exc).__name__}"] += 1
                await asyncio.sleep(0.01)
                continue
            try:
                await self._converse(reader, writer)
            finally:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._stopping:
            if reader.at_eof():
                self.tally.idle_closes += 1
                return
            try:
                writer.write(self._request)
                keep = await self._answer(reader)
            except (OSError, EOFError, ValueError) as exc:
                self.tally.failures[type(exc).__name__] += 1
                return
            self.tally.answered += 1
            if not keep:
                self.tally.announced_closes += 1
                return
            if self._pause_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), self._pause_s)

    async def _answer(self, reader: asyncio.StreamReader) -> bool:
        """Read one answer whole; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        if not status.startswith(b"HTTP/1.1 200 "):
            raise ValueError(status.decode("latin-1"))
        lines = dict(line.lower().split(b": ", 1) for line in fields.split(b"\r\n") if line)
        self.tally.pids.add(lines.get(b"x-pid", b""))
        await reader.readexactly(int(lines[b"content-length"]))
        return lines.get(b"connection") != b"close"


async def run_for(load: Load, seconds: float) -> Tally:
    """Run `load` for a while and give its tally."""
    running = asyncio.ensure_future(load.run())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.05)
    load.stop()
    return await running
