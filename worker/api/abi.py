"""How a guest is called and how it answers, by the name that a service's `handler.abi` has. A third ABI stands here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from runner.protocol.call import Answer
from worker.api.export import Export
from worker.api.wagi import Wagi
from worker.core.task import Handler

Fields = list[tuple[bytes, bytes]]


class Abi(Protocol):
    """One handler's way of being called.

    Attributes:
        wants_variables: whether the guest gets the request's CGI variables.
    """

    wants_variables: bool

    def most_answer_bytes(self, output_bytes: int) -> int:
        """The longest answer that a guest may give whose output is limited so."""

    def request(self, body: bytes) -> bytes:
        """What the runner is sent of a request's body. Raises: Problem: the caller's mistake."""

    def response(self, answer: Answer) -> tuple[int, Fields, bytes]:
        """(status, header fields, body) of what a guest answered that ended well.

        The fields are a new list; neither Content-Length nor a hop-by-hop field is among them.

        Raises:
            Problem: guest_bad_response.
            ProtocolError: nothing that a runner may send.
        """


ABIS: Mapping[str, Callable[[Handler], Abi]] = {"wagi": Wagi, "export": Export}
