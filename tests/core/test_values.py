"""Numbers as JSON and as bits: every type's edges, both ways."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.values import BadParam, check_untyped, read_params, write_values

NAN32, NAN64 = 0x7FC00000, 0x7FF8000000000000


def f32(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


def f64(number: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", number))[0])


@pytest.mark.parametrize(
    ("name", "written", "bits"),
    [
        ("i32", "0", 0),
        ("i32", "-1", 0xFFFFFFFF),
        ("i32", "2147483647", 0x7FFFFFFF),
        ("i32", "-2147483648", 0x80000000),
        ("i64", "-1", 0xFFFFFFFFFFFFFFFF),
        ("i64", "9007199254740993", 9007199254740993),
        ("i64", '"9223372036854775807"', 0x7FFFFFFFFFFFFFFF),
        ("i64", '"-9223372036854775808"', 0x8000000000000000),
        ("f32", "1.5", f32(1.5)),
        ("f32", "-0.0", 0x80000000),
        ("f32", '"NaN"', NAN32),
        ("f32", '"-Infinity"', f32(-math.inf)),
        ("f64", "2", f64(2.0)),
        ("f64", '"Infinity"', f64(math.inf)),
        ("f64", '"NaN"', NAN64),
    ],
)
def test_a_parameter_is_typed_by_the_signature(name: str, written: str, bits: int) -> None:
    assert ((name, bits),) == read_params(f"[{written}]".encode(), (name,))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("i32", "2147483648"),
        ("i32", "-2147483649"),
        ("i32", "4294967295"),
        ("i32", "1.0"),
        ("i32", '"1"'),
        ("i32", "true"),
        ("i32", "null"),
        ("i64", "9223372036854775808"),
        ("i64", '"9223372036854775808"'),
        ("i64", '"0x1"'),
        ("i64", '" 1"'),
        ("i64", '"\u0661"'),
        ("f32", "3.5e38"),
        ("f32", "1e999"),
        ("f64", "1e999"),
        ("f64", "1" + "0" * 400),
        ("f64", '"nan"'),
        ("f64", "NaN"),
        ("f64", "false"),
        ("f64", "[1]"),
        ("v128", "0"),
        ("funcref", "null"),
    ],
)
def test_what_a_type_cannot_hold_is_refused_by_its_place(name: str, written: str) -> None:
    with pytest.raises(BadParam) as refused:
        read_params(f"[1, {written}]".encode(), ("i32", name))
    assert 1 == refused.value.index


@pytest.mark.parametrize("written", ["[]", "[1, 2]"])
def test_the_number_of_parameters_is_the_signatures(written: str) -> None:
    with pytest.raises(BadParam, match=r"takes 1 parameters \(i32\)") as refused:
        read_params(written.encode(), ("i32",))
    assert refused.value.index is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (("i32", 0xFFFFFFFF), -1),
        (("i32", 0xABCD_0000_0001), 1),  # the upper half is not an i32's
        (("i64", 2**53 - 1), 2**53 - 1),
        (("i64", 2**53), "9007199254740992"),
        (("i64", 2**64 - 2**53), "-9007199254740992"),
        (("i64", 2**64 - 2**53 + 1), -(2**53 - 1)),
        (("f32", NAN32 | 1), "NaN"),
        (("f64", f64(-math.inf)), "-Infinity"),
        (("f32", f32(math.inf)), "Infinity"),
        (("f32", f32(0.1)), 0.10000000149011612),
    ],
)
def test_a_result_is_written_so_that_every_reader_can_hold_it(value: tuple[str, int], written: object) -> None:
    assert [written] == write_values([value])


@given(st.lists(st.tuples(st.sampled_from(("i32", "i64", "f32", "f64")), st.integers(0, 2**64 - 1)), max_size=8))
def test_what_is_written_reads_back_to_the_same_bits(values: list[tuple[str, int]]) -> None:
    def canonical(name: str, bits: int) -> int:
        bits &= 0xFFFFFFFF if name.endswith("32") else 0xFFFFFFFFFFFFFFFF
        if name == "f32" and bits & 0x7FFFFFFF > 0x7F800000:
            return NAN32
        if name == "f64" and bits & 0x7FFFFFFFFFFFFFFF > 0x7FF0000000000000:
            return NAN64
        return bits

    written = json.dumps(write_values(values)).encode()
    assert tuple((name, canonical(name, bits)) for name, bits in values) == read_params(
        written, [name for name, _ in values]
    )


@given(st.binary(max_size=100))
def test_bytes_that_are_no_array_are_refused(data: bytes) -> None:
    try:
        read_params(data, ("i32",))
    except BadParam:
        return
    assert isinstance(json.loads(data), list)


@pytest.mark.parametrize("written", ["true", "null", "{}", "[]"])
def test_before_the_types_are_known_a_parameter_is_a_number_or_a_string(written: str) -> None:
    check_untyped(b'[1, 2.5, "7"]')
    with pytest.raises(BadParam) as refused:
        check_untyped(f"[1, {written}]".encode())
    assert 1 == refused.value.index
