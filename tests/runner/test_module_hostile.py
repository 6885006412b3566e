"""Static admission against modules made to hurt: each is refused by name, and no bytes whatever get past that."""

from __future__ import annotations

import sys
import tracemalloc
from types import FrameType
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import module
from runner.errors import ModuleRefused
from runner.module import Caps
from tests.runner import wasm_bytes as w
from tests.runner.hostile_modules import (
    CODE,
    FUNCTIONS,
    MALFORMED_MODULES,
    NOT_CORE,
    OVER_A_CAP,
    OVERLONG,
    TYPES,
    exports,
    imports,
    segments,
    subtypes,
)
from tests.runner.test_module import GC_WAT, RICH_WAT, binary

MALFORMED, LIMIT = "module_malformed", "module_limit"
ENGINE = wasmtime.Engine()


def refusal(wasm: bytes, caps: Caps | None = None) -> tuple[str, str] | None:
    try:
        module.inspect(wasm, caps or Caps())
    except ModuleRefused as exc:
        return exc.code, exc.message
    return None


@pytest.mark.parametrize("case", OVER_A_CAP)
def test_what_is_over_a_cap_is_refused_with_what_was_counted_and_what_is_allowed(case: str) -> None:
    wasm, said = OVER_A_CAP[case]
    refused = refusal(wasm)
    assert refused is not None
    assert (refused[0], said in refused[1], "are allowed" in refused[1]) == (LIMIT, True, True), refused


def test_each_cap_is_an_option_and_its_figure_is_still_allowed() -> None:
    small = Caps(max_functions=3, max_data_segments=3, max_imports=3, max_exports=3)
    memory = w.section(5, b"\1\0\1")
    for count, expected in ((3, None), (4, LIMIT)):
        three = w.module(*w.functions(count))
        many = [
            three,
            w.module(memory, segments(count)),
            w.module(TYPES, imports(count)),
            w.module(TYPES, FUNCTIONS, exports(count), CODE),
        ]
        codes = [(refusal(wasm, small) or (None,))[0] for wasm in many]
        assert [expected] * 4 == codes


def test_as_many_as_the_caps_allow_pass() -> None:
    assert refusal(w.module(*w.functions(100_000))) is None
    assert refusal(w.module(TYPES, imports(1000), FUNCTIONS, exports(1000), CODE)) is None
    assert refusal(w.module(w.section(5, b"\1\0\1"), segments(50_000))) is None
    assert refusal(w.module(subtypes(63))) is None
    assert refusal(w.module(w.section(0, w.name("debug") + bytes(30 * 2**20)))) is None


@pytest.mark.parametrize("case", MALFORMED_MODULES)
def test_what_is_malformed_is_refused_with_what_is_wrong(case: str) -> None:
    wasm, said = MALFORMED_MODULES[case]
    refused = refusal(wasm)
    assert refused is not None
    assert (refused[0], said in refused[1]) == (MALFORMED, True), refused


@pytest.mark.parametrize("case", MALFORMED_MODULES)
def test_what_is_malformed_is_refused_by_wasmtime_too(case: str) -> None:
    wasm, _ = MALFORMED_MODULES[case]
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module.validate(ENGINE, wasm)


@pytest.mark.parametrize("case", NOT_CORE)
def test_what_is_no_core_module_is_refused_by_what_it_is(case: str) -> None:
    wasm, code, said = NOT_CORE[case]
    refused = refusal(wasm)
    assert refused is not None
    assert (refused[0], said in refused[1]) == (code, True), refused


def test_what_wasmtime_compiles_is_precompiled() -> None:
    artifact = bytes(wasmtime.Module(ENGINE, binary("(module)")).serialize())
    assert (refusal(artifact) or ("",))[0] == "module_precompiled"


# -- whatever the bytes ------------------------------------------------------------------------------------------------

VALID = (binary(RICH_WAT), binary(GC_WAT), w.module(TYPES, imports(20), FUNCTIONS, exports(20), CODE))
SUBJECTS = st.sampled_from(VALID)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid module with some bytes changed, removed, put in, or a piece of it repeated."""
    wasm = bytearray(draw(SUBJECTS))
    for _ in range(draw(st.integers(1, 6))):
        where = draw(st.integers(8, len(wasm)))
        cut = draw(st.integers(0, 6))
        put = draw(st.binary(max_size=6) | st.sampled_from([b"\xff" * 5, OVERLONG, bytes(wasm[8:64])]))
        wasm[where : where + cut] = put
    return bytes(wasm)


@pytest.mark.parametrize("wasm", VALID)
def test_a_truncated_module_is_refused_unless_it_ends_between_sections(wasm: bytes) -> None:
    for size in range(len(wasm)):
        refused = refusal(wasm[:size])
        if refused is None:
            wasmtime.Module.validate(ENGINE, wasm[:size])
        else:
            assert refused[0] == MALFORMED


class Steps:
    """Counts Python calls, the measure of work that doesn't depend on the machine."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event == "call"


def steps_of(wasm: bytes) -> int:
    steps = Steps()
    before = sys.getprofile()
    sys.setprofile(steps)
    try:
        refusal(wasm)
    finally:
        sys.setprofile(before)
    return steps.calls


HOSTILE = {case: wasm for case, (wasm, _) in OVER_A_CAP.items()}


@settings(max_examples=200)
@given(mutated())
def test_the_work_is_linear_in_the_size(wasm: bytes) -> None:
    assert steps_of(wasm) <= 100 + 6 * len(wasm)


@pytest.mark.parametrize("case", HOSTILE)
def test_the_work_on_a_hostile_module_is_bounded_whatever_its_size(case: str) -> None:
    # The dearest are half a million local groups, two calls each, and 2 MiB of types or globals.
    assert steps_of(HOSTILE[case]) <= 2_000_000


@pytest.mark.parametrize("case", HOSTILE)
def test_the_memory_for_a_hostile_module_is_bounded_whatever_its_size(case: str) -> None:
    tracemalloc.start()
    try:
        refusal(HOSTILE[case])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 8 * 1024 * 1024
