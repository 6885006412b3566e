"""The command channel, by its two ends: `Server` for the coordinator, `Client` for an API worker."""

from __future__ import annotations

from worker.shared.channel_client import Client
from worker.shared.channel_codec import MAX_MESSAGE_BYTES
from worker.shared.channel_server import MAX_CONNECTIONS, Connection, Request, Server, listen

__all__ = ["MAX_CONNECTIONS", "MAX_MESSAGE_BYTES", "Client", "Connection", "Request", "Server", "listen"]
