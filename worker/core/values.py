"""Wasm numbers as JSON and as raw 64 bits, both ways, for a task's `entry.params` and its `result`.

JSON to bits is strict: an i32 or i64 is an integer in its signed range, an i64 also a decimal string; an f32 or f64 is
a number or one of "NaN", "Infinity", "-Infinity". Bits to JSON: an i64 beyond 2**53 - 1 in size is a decimal string,
because many JSON readers hold numbers as f64 (RFC 8259, 6).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Sequence
from math import isfinite

from worker.core.errors import CoreError

Value = tuple[str, int]  # type name, raw 64 bits (an i32 or f32 in the lower half, the upper half 0)

MAX_SAFE_INTEGER = 2**53 - 1
# No number that fits 64 bits needs so many; it bounds what a task keeps until its module is there.
MAX_PARAM_BYTES = 512

_DECIMAL = re.compile(r"-?[0-9]{1,19}")
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INT_BITS = {"i32": 32, "i64": 64}
_FLOATS = {"f32": (struct.Struct("<f"), struct.Struct("<I")), "f64": (struct.Struct("<d"), struct.Struct("<Q"))}


class BadParam(CoreError):
    """Parameters that don't fit a signature. `index` is of the first that doesn't, None where their number is wrong."""

    def __init__(self, index: int | None, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.message = message


def read_params(params_json: bytes, types: Sequence[str]) -> tuple[Value, ...]:
    """Type the JSON array `params_json` by an export's parameter types.

    Raises:
        BadParam: too many, too few, or one that its type can't hold.
    """
    return type_params(_parse(params_json), types)


def type_params(params: Sequence[object], types: Sequence[str]) -> tuple[Value, ...]:
    """Type what a JSON array held, by an export's parameter types.

    Raises:
        BadParam: too many, too few, or one that its type can't hold.
    """
    if len(params) != len(types):
        raise BadParam(
            None, f"the export takes {len(types)} parameters ({', '.join(types) or 'none'}), not {len(params)}"
        )
    return tuple([(name, _bits(index, name, params[index])) for index, name in enumerate(types)])


def check_untyped(params_json: bytes) -> None:
    """What can be said of parameters whose types aren't known yet: each is a number or a string.

    Raises:
        BadParam: one is neither.
    """
    for index, param in enumerate(_parse(params_json)):
        if isinstance(param, bool) or not isinstance(param, int | float | str):
            raise BadParam(index, f"a parameter is a number or a string, not {_show(param)}")


def write_values(values: Iterable[Value]) -> list[int | float | str]:
    """What JSON says for raw values; `read_params` takes it back to the same bits, but for the payload of a NaN."""
    return [_number(name, bits) for name, bits in values]


def _parse(params_json: bytes) -> list[object]:
    try:
        params = json.loads(params_json)
    except (ValueError, RecursionError) as exc:
        raise BadParam(None, "the parameters aren't a JSON array") from exc
    if not isinstance(params, list):
        raise BadParam(None, "the parameters aren't a JSON array")
    return params


def _bits(index: int, name: str, param: object) -> int:
    if name in _INT_BITS:
        return _integer_bits(index, name, param)
    if name in _FLOATS:
        return _float_bits(index, name, param)
    raise BadParam(index, f"a parameter of type {name} can't be passed; only i32, i64, f32 and f64 can")


def _integer_bits(index: int, name: str, param: object) -> int:
    bits = _INT_BITS[name]
    if name == "i64" and isinstance(param, str) and _DECIMAL.fullmatch(param):
        param = int(param)
    if isinstance(param, bool) or not isinstance(param, int):
        or_string = " or a decimal string" if name == "i64" else ""
        raise BadParam(index, f"an {name} is an integer{or_string}, not {_show(param)}")
    if not -(1 << (bits - 1)) <= param < 1 << (bits - 1):
        raise BadParam(index, f"an {name} is from -2**{bits - 1} to 2**{bits - 1} - 1, not {_show(param)}")
    return param & ((1 << bits) - 1)


def _float_bits(index: int, name: str, param: object) -> int:
    number = _NOT_FINITE.get(param) if isinstance(param, str) else param
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise BadParam(index, f'an {name} is a number, "NaN", "Infinity" or "-Infinity", not {_show(param)}')
    as_float, as_bits = _FLOATS[name]
    try:
        if not isinstance(param, str) and not isfinite(number):  # 1e999, or a NaN that is no JSON
            raise OverflowError
        bits: int = as_bits.unpack(as_float.pack(number))[0]
    except OverflowError:
        raise BadParam(index, f"{_show(param)} is beyond what an {name} can hold") from None
    return bits


def _number(name: str, bits: int) -> int | float | str:
    if name in _INT_BITS:
        size = _INT_BITS[name]
        bits &= (1 << size) - 1
        signed = bits - (1 << size) if bits >> (size - 1) else bits
        return signed if -MAX_SAFE_INTEGER <= signed <= MAX_SAFE_INTEGER else str(signed)
    as_float, as_bits = _FLOATS[name]
    number: float = as_float.unpack(as_bits.pack(bits & ((1 << 8 * as_bits.size) - 1)))[0]
    if number != number:
        return "NaN"
    return number if isfinite(number) else ("Infinity" if number > 0 else "-Infinity")


def _show(param: object) -> str:
    return json.dumps(param)[:60]
