"""What runs of functions now, asked of the coordinator. A list is worth giving without it, so nothing here fails."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from worker.api.render_functions import Live
from worker.api.services import Services
from worker.core.commands import Done, ReadFunctions
from worker.errors import NoAnswer, NotSent
from worker.shared.routes import Route

_logger = logging.getLogger("galago.api")
# A revision's figures take about 1 KiB, and a message may have 256.
BATCH_REVISIONS = 64
# Not what a command may take: the table's part is at hand, and somebody waits for it.
TIMEOUT_S = 1.0


async def read_live(services: Services, routes: Iterable[Route]) -> Live:
    """The figures of all functions that the routes are of, as far as the coordinator tells them."""
    live: dict[str, Any] = {}
    for names in _batches(Counter(route.function for route in routes)):
        try:
            reply = await services.channel.ask(ReadFunctions(names), TIMEOUT_S)
        except (NotSent, NoAnswer):
            break  # it won't be faster the next time
        if isinstance(reply, Done):
            live.update(orjson.loads(reply.body))
        else:
            _logger.warning("the coordinator tells no figures of %d functions: %s", len(names), reply.detail)
    return live


def _batches(revisions: Counter[str]) -> Iterator[tuple[str, ...]]:
    """Names of functions, with BATCH_REVISIONS revisions together at most, or one function that has more."""
    batch: list[str] = []
    size = 0
    for name, count in revisions.items():
        if batch and size + count > BATCH_REVISIONS:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(name)
        size += count
    if batch:
        yield tuple(batch)
