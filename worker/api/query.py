"""Query strings: every parameter is known by name and comes once."""

from __future__ import annotations

from urllib.parse import parse_qsl

from worker.api.problems import Problem

_MAX_PARAMETERS = 32


def read_query(raw: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query string.

    Raises:
        Problem: field_unknown, field_conflict, field_range.
    """
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS, errors="strict")
    except UnicodeDecodeError:
        raise Problem("field_range", "a query is UTF-8, percent-encoded") from None
    except ValueError:
        raise Problem("field_range", f"a query has at most {_MAX_PARAMETERS} parameters") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            right = f"known are {', '.join(known)}" if known else "there are none here"
            raise Problem("field_unknown", f"the query parameter {name} is unknown; {right}", name)
        if name in found:
            raise Problem("field_conflict", f"the query parameter {name} may come once", name)
        found[name] = value
    return found


def read_integer(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    """Raises: Problem: field_type, field_range."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise Problem("field_type", f"{name} must be an integer", name)
    if len(text) > 18 or not low <= int(text) <= high:
        raise Problem("field_range", f"{name} must be from {low} to {high}", name)
    return int(text)


def read_choice(query: dict[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    """Raises: Problem: field_range."""
    text = query.get(name)
    if text is not None and text not in choices:
        raise Problem("field_range", f"{name} must be one of {', '.join(choices)}", name)
    return text


def read_flag(query: dict[str, str], name: str) -> bool:
    """Raises: Problem: field_range."""
    return read_choice(query, name, ("0", "1", "false", "true")) in ("1", "true")
