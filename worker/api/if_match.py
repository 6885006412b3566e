"""`If-Match` (RFC 9110, 13.1.1): which generations of a function's default the client wants to have before a switch."""

from __future__ import annotations

import re

from worker.api.problems import Problem

_TAG = re.compile(r'(W/)?"([!#-~\x80-\xff]*)"')
# As `ETag` is written: strong comparison is character by character, so "07" is not "7".
_GENERATION = re.compile(r"0|[1-9][0-9]{0,17}")


def etag(generation: int) -> str:
    """The strong ETag of a generation."""
    return f'"{generation}"'


def read_if_match(value: bytes | None) -> frozenset[int] | None:
    """The generations of the header's value; None where any will do: without the header, and for `*`.

    A weak tag, and one that is no generation, matches nothing and is left out: the set may be empty.

    Raises:
        Problem: bad_header, for what is no list of tags.
    """
    if value is None or value.strip() == b"*":
        return None
    found: set[int] = set()
    tags = 0
    for member in value.decode("latin-1").split(","):  # a tag may hold a comma, but none of ours does
        text = member.strip()
        if not text:  # RFC 9110, 5.6.1.2
            continue
        tag = _TAG.fullmatch(text)
        if tag is None:
            raise Problem("bad_header", 'If-Match has the ETag of the function, like "7", or *', "if-match")
        tags += 1
        if not tag[1] and _GENERATION.fullmatch(tag[2]):
            found.add(int(tag[2]))
    if not tags:
        raise Problem("bad_header", 'If-Match has the ETag of the function, like "7", or *', "if-match")
    return frozenset(found)
