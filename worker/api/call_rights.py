"""What a caller may: call at all, under which limits, and whether he is told what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from worker.api.auth import Token, Tokens
from worker.api.hosts import is_loopback
from worker.api.problems import Problem
from worker.core.task import Handler, Limits

AUTHORIZATION = b"authorization"
LIMIT_FUEL, LIMIT_WALL = b"x-galago-limit-fuel", b"x-galago-limit-wall-ms"
_LOOKED_AT = frozenset((AUTHORIZATION, LIMIT_FUEL, LIMIT_WALL))
_MAX_DIGITS = 19


class Rights(NamedTuple):
    """One call's. `hides_token`: its Authorization is one of ours, and never a guest's to see, needed or not."""

    fuel: int
    wall_ms: int
    exposes_usage: bool
    hides_token: bool = False


class Rules:
    """What holds for the calls of one revision."""

    __slots__ = ("_anybodys", "_open")

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._open = handler.auth == "none"
        self._anybodys = Rights(limits.fuel, limits.wall_ms, handler.expose_usage)

    def judge(self, tokens: Tokens | None, fields: Mapping[bytes, bytes], client: str) -> Rights:
        """What this caller may.

        Args:
            tokens: None where there is no token file, and so nobody has one.
            client: his address.

        Raises:
            Problem: unauthorized, forbidden, bad_header, limit_above_ceiling.
        """
        if self._open and _LOOKED_AT.isdisjoint(fields):
            return self._anybodys
        lowers = LIMIT_FUEL in fields or LIMIT_WALL in fields
        if lowers or not self._open:
            token = _admit(tokens, fields, client)
        else:
            token = tokens.find(fields.get(AUTHORIZATION)) if tokens is not None else None
        rights = self._anybodys
        if lowers:
            fuel = _lowered(fields, LIMIT_FUEL, rights.fuel)
            rights = rights._replace(fuel=fuel, wall_ms=_lowered(fields, LIMIT_WALL, rights.wall_ms))
        if token is None:
            return rights
        return rights._replace(exposes_usage=rights.exposes_usage or "read" in token.scopes, hides_token=True)


def _admit(tokens: Tokens | None, fields: Mapping[bytes, bytes], client: str) -> Token | None:
    """His token, None where nobody has one."""
    if tokens is not None:
        return tokens.admit(fields.get(AUTHORIZATION), "call")
    if not is_loopback(client):
        raise Problem("forbidden", "this needs a token, and without a --token-file only this machine itself may")
    return None


def _lowered(fields: Mapping[bytes, bytes], name: bytes, most: int) -> int:
    text = fields.get(name)
    if text is None:
        return most
    header = name.decode()
    if not text.isdigit() or len(text) > _MAX_DIGITS or int(text) < 1:
        raise Problem("bad_header", f"{header} is a number, from 1 to the function's own limit", header)
    if int(text) > most:
        raise Problem("limit_above_ceiling", f"{header} may be up to the function's own limit, {most}", header)
    return int(text)
