"""A client of one worker, sync and async, of the extra `client`:

    from worker.client import Client

    with Client("http://127.0.0.1:8470") as worker:
        module = worker.upload(Path("hello.wasm").read_bytes())
        task = worker.run({"kind": "job", "module": {"digest": module.digest}})
        print(task.reason, worker.output(task.id))

`AsyncClient` has the same methods, to be awaited. What was certainly not executed and may succeed later is tried again,
and nothing else is.
"""

from worker.client.answers import (
    CallAnswer,
    Event,
    Extern,
    Function,
    Module,
    Page,
    Revision,
    Stats,
    Switched,
    Task,
)
from worker.client.async_client import AsyncClient
from worker.client.connection import DEFAULT_URL
from worker.client.errors import BadUrl, Broken, ClientError, NotAWorker, Refused, StillGoing, Unreachable
from worker.client.flows import Chunk, Retry
from worker.client.sync_client import Client

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "BadUrl",
    "Broken",
    "CallAnswer",
    "Chunk",
    "Client",
    "ClientError",
    "Event",
    "Extern",
    "Function",
    "Module",
    "NotAWorker",
    "Page",
    "Refused",
    "Retry",
    "Revision",
    "Stats",
    "StillGoing",
    "Switched",
    "Task",
    "Unreachable",
]
