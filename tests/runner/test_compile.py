"""What the compiler takes and refuses; its artifacts run."""

from __future__ import annotations

import pytest

from runner import settings
from runner.compile import compile_module
from runner.errors import EngineError
from tests.runner.guest_host import CEILING_BYTES, Host, wat

PAGE = settings.WASM_PAGE_BYTES
ADD = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'


def test_an_artifact_of_a_module_runs() -> None:
    with Host() as host:
        artifact = compile_module(host.engine, wat(ADD))
        module = host.engine.load(artifact)
        prepared = host.invoker.prepare(module)
        result = host.call(prepared, "add", (0, 19), (0, 23))
        prepared.close()
        module.close()
    assert [(0, 42)] == list(result.outcome.results)


def test_a_module_compiles_to_the_same_bytes_twice() -> None:
    with Host() as one, Host() as other:
        assert compile_module(one.engine, wat(ADD)) == compile_module(other.engine, wat(ADD))


@pytest.mark.parametrize(
    ("wasm", "named"),
    [
        (b"", "a core module begins with"),
        (b"(module)", "a core module begins with"),
        (b"\x7fELF", "a core module begins with"),
        (b"\0asm\x0d\0\x01\0", "a core module begins with"),
        (b"\0asm\x02\0\0\0", "a core module begins with"),
        (b"\0asm\x01\0\0\0\xff", "expected at offset|unexpected end|malformed"),
        (b"\0asm\x01\0\0\0\x01\x05", "unexpected end"),
    ],
    ids=["empty", "text", "an artifact", "a component", "another version", "garbage", "cut short"],
)
def test_what_is_no_core_module_is_refused(wasm: bytes, named: str) -> None:
    with Host() as host, pytest.raises(EngineError, match=named) as caught:
        compile_module(host.engine, wasm)
    assert caught.value.step == "compile"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("(module (func (result i32)))", "type mismatch"),
        (f"(module (memory {CEILING_BYTES // PAGE + 1}))", "exceeds the limit"),
        (f"(module {'(memory 1)' * (settings.MAX_MEMORIES + 1)})", "memories"),
        (f"(module {'(table 1 funcref)' * (settings.MAX_TABLES + 1)})", "tables"),
        (f"(module (table {settings.MAX_TABLE_ELEMENTS + 1} funcref))", "element size"),
    ],
    ids=["invalid", "memory", "memories", "tables", "elements"],
)
def test_what_the_pool_has_no_room_for_is_refused(text: str, named: str) -> None:
    with Host() as host, pytest.raises(EngineError, match=named):
        compile_module(host.engine, wat(text))


def test_legacy_exceptions_are_refused() -> None:
    # (func (try (do) (catch_all))) in the old encoding: 0x06 try, 0x19 catch_all
    body = b"\x00\x06\x40\x19\x0b\x0b"
    code = b"\x0a" + bytes((len(body) + 2, 1, len(body))) + body
    wasm = b"\0asm\x01\0\0\0" + b"\x01\x04\x01\x60\0\0" + b"\x03\x02\x01\0" + code
    with Host() as host, pytest.raises(EngineError, match="legacy"):
        compile_module(host.engine, wasm)


def test_an_errors_text_is_capped_however_long_the_modules_names_are() -> None:
    name = "n" * 100_000
    text = f'(module (func (export "{name}")) (func (export "{name}")))'
    with Host() as host, pytest.raises(EngineError) as caught:
        compile_module(host.engine, wat(text))
    assert len(caught.value.message) <= 4096
