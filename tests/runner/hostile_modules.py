"""Modules that static admission refuses, each with what it says: over a cap, malformed, or no core module at all."""

from __future__ import annotations

from tests.runner import wasm_bytes as w

TYPES, FUNCTIONS, CODE = w.functions(1)


def segments(count: int) -> bytes:
    return w.section(11, w.leb(count) + b"\0\x41\0\x0b\0" * count)


def imports(count: int) -> bytes:
    return w.section(2, w.vector(w.func_import("m", f"f{index}") for index in range(count)))


def exports(count: int) -> bytes:
    return w.section(7, w.vector(w.export(f"f{index}") for index in range(count)))


def subtypes(depth: int) -> bytes:
    """A chain: type n is a subtype of type n - 1."""
    chain = [b"\x50\x01" + w.leb(index) + b"\x5f\0" for index in range(depth)]
    return w.section(1, w.vector([b"\x50\0\x5f\0", *chain]))


OVER_A_CAP = {
    "a million functions": (w.module(*w.functions(1_000_000)), "has 1,000,000 functions, at most 100,000"),
    "a million bodies alone": (w.module(TYPES, w.functions(1_000_000)[2]), "has 1,000,000 functions, at most 100,000"),
    "100k imports": (w.module(TYPES, imports(100_000)), "has 100,000 imports, at most 1,000"),
    "100k exports": (w.module(TYPES, FUNCTIONS, exports(100_000), CODE), "has 100,000 exports, at most 1,000"),
    "100k data segments": (w.module(w.section(5, b"\1\0\1"), segments(100_000)), "has 100,000 data segments, at most"),
    "100k announced data segments": (w.module(w.section(12, w.leb(100_000))), "has 100,000 data segments, at most"),
    "100k element segments": (w.module(w.section(9, w.leb(100_000) + bytes(300_000))), "100,000 element segments"),
    "600k types": (w.module(w.section(1, w.vector([w.func_type()] * 600_000))), "has 600,000 types, at most 50,000"),
    "600k types in one group": (
        w.module(w.section(1, b"\1\x4e" + w.vector([w.func_type()] * 600_000))),
        "has 600,000 types, at most 50,000",
    ),
    "types in many groups": (
        w.module(w.section(1, w.vector([b"\x4e" + w.vector([w.func_type()] * 30_000)] * 4))),
        "has 60,000 types, at most 50,000",
    ),
    "3 MB of types": (w.module(w.section(1, w.vector([w.func_type()] * 1_000_000))), "has 3,000,003 bytes, at most"),
    "a constant of 3 MB": (w.module(w.section(6, b"\1\x7f\0" + b"\x41\0" * 1_500_000)), "has 3,000,003 bytes, at most"),
    "100k globals": (w.module(w.section(6, w.leb(100_000) + b"\x7f\0\x41\0\x0b" * 100_000)), "has 100,000 globals"),
    "100k tags": (w.module(TYPES, w.section(13, w.leb(100_000) + b"\0\0" * 100_000)), "has 100,000 tags, at most"),
    "100 memories": (w.module(w.section(5, w.vector([b"\0\1"] * 100))), "has 100 memories, at most 4"),
    "100 imported memories": (
        w.module(w.section(2, w.vector([w.name("m") + w.name("m") + b"\2\0\1"] * 100))),
        "with its imports, 100 memories, at most 4",
    ),
    "100 imported tables": (
        w.module(w.section(2, w.vector([w.name("m") + w.name("t") + b"\1\x70\0\1"] * 100))),
        "with its imports, 100 tables, at most 8",
    ),
    "100 tables": (w.module(w.section(4, w.vector([b"\x70\0\1"] * 100))), "has 100 tables, at most 8"),
    "a table of four billion": (w.module(w.section(4, b"\1\x70\0" + w.leb(2**32 - 1))), "4,294,967,295 elements"),
    "100k custom sections": (w.module(w.section(0, w.name("x")) * 100_000), "1,001 custom sections, at most 1,000"),
    "a name of a megabyte": (w.module(TYPES, FUNCTIONS, w.section(7, w.vector([w.export("n" * 2**20)]))), "1,048,576"),
    "an import's name of a megabyte": (
        w.module(TYPES, w.section(2, w.vector([w.func_import("m" * 2**20, "")]))),
        "1,048",
    ),
    "a custom section's name of a megabyte": (w.module(w.section(0, w.name("n" * 2**20))), "1,048,576 bytes"),
    "names of two megabytes together": (
        w.module(TYPES, w.section(2, w.vector(w.func_import("m" * 1024, f"{i:01024}") for i in range(900)))),
        "imports and exports take",
    ),
    "a signature of 1,000 types a thousand times": (
        w.module(
            w.section(1, w.vector([w.func_type(["i32"] * 1000, ["i64"] * 1000)])),
            w.section(2, w.vector(w.func_import("m", str(index)) for index in range(1000))),
        ),
        "imports and exports take",
    ),
    "a function of 100k parameters": (w.module(w.section(1, w.vector([w.func_type(["i32"] * 100_000)]))), "parameters"),
    "a function of 100k results": (w.module(w.section(1, w.vector([w.func_type([], ["i32"] * 9999)]))), "results, at"),
    "types nested a thousand deep": (w.module(subtypes(1000)), "nests types 64 deep, at most 63"),
    "locals: four billion in six bytes": (
        w.module(*w.functions(1, w.body(b"\1" + w.leb(2**32 - 1) + b"\x7f"))),
        "has 4,294,967,295 locals, at most 10,000,000",
    ),
    "locals: 50,000 in each of 1,000 functions": (
        w.module(*w.functions(1000, w.body(b"\1" + w.leb(50_000) + b"\x7f"))),
        "locals, at most 10,000,000",
    ),
    "locals in millions of empty groups": (
        w.module(*w.functions(3, w.body(w.leb(500_000) + b"\0\x7f" * 500_000))),
        "1,000,000 groups of locals, at most 500,000",
    ),
}

OVERLONG = b"\x80\x80\x80\x80\x80\x00"
MALFORMED_MODULES = {
    "an empty file": (b"", "an empty file"),
    "a cut magic": (b"\0as", "starts with 00 61 73 6d"),
    "another magic": (b"\0elf\1\0\0\0", "starts with 00 61 73 6d"),
    "no version": (b"\0asm", "version after the magic is none"),
    "version 2": (b"\0asm\2\0\0\0", "version after the magic is 02 00 00 00"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "starts with"),
    "a section that isn't": (w.module(w.section(14, b"")), "no section with the id 14"),
    "a section past the end": (w.module(b"\1\x7f"), "127 bytes are announced, 0 are there"),
    "a size that is overlong": (w.module(b"\1" + OVERLONG), "takes at most 5 bytes"),
    "a size above 32 bits": (w.module(b"\1\xff\xff\xff\xff\x7f"), "an integer of 32 bits is too large"),
    "a section twice": (w.module(TYPES, TYPES), "must stand before"),
    "sections out of order": (
        w.module(w.section(2, b"\0"), TYPES),
        "the type section must stand before the import section",
    ),
    "a tag section behind the globals": (
        w.module(TYPES, w.section(6, b"\0"), w.section(13, b"\0")),
        "must stand before the global section",
    ),
    "bytes behind the last entry": (w.module(w.section(1, b"\0\0")), "1 bytes follow the last type"),
    "bytes behind the last export": (w.module(w.section(7, b"\0\0")), "1 bytes follow its last entry"),
    "more types than bytes": (w.module(w.section(1, w.leb(50))), "50 entries are announced, 0 bytes"),
    "more functions than bytes": (w.module(TYPES, w.section(3, w.leb(50))), "50 entries are announced"),
    "more exports than bytes": (w.module(w.section(7, w.leb(50))), "50 entries are announced"),
    "more data than bytes": (w.module(w.section(11, w.leb(50))), "50 entries are announced"),
    "an empty section": (w.module(w.section(7, b"")), "ends in the middle"),
    "functions without bodies": (w.module(TYPES, FUNCTIONS), "1 functions are declared, the code section has 0"),
    "bodies without functions": (w.module(TYPES, CODE), "0 functions are declared, the code section has 1"),
    "data that isn't there": (w.module(w.section(12, b"\1")), "1 data segments are announced, there are 0"),
    "a type that isn't there": (w.module(TYPES, w.section(3, b"\1\x05"), CODE), "type 5 is used, there are 1"),
    "a struct as a function": (
        w.module(w.section(1, w.vector([b"\x5f\0"])), FUNCTIONS, CODE),
        "used as a function's and isn't one",
    ),
    "a form that isn't": (w.module(w.section(1, w.vector([b"\x5d\0\0"]))), "0x5d isn't a type's form"),
    "a value type that isn't": (w.module(w.section(1, w.vector([b"\x60\1\x50\0"]))), "0x50 isn't a value type"),
    "a supertype behind its subtype": (w.module(w.section(1, w.vector([b"\x50\1\1\x5f\0"]))), "doesn't stand before"),
    "an export twice": (w.module(TYPES, FUNCTIONS, w.section(7, w.vector([w.export("a")] * 2)), CODE), "named 'a'"),
    "an export of nothing": (w.module(w.section(7, w.vector([w.export("a")]))), "func 0 is named, there are 0"),
    "an export's kind that isn't": (w.module(w.section(7, w.vector([w.export("a", 5)]))), "5 isn't a kind of export"),
    "an import's kind that isn't": (w.module(w.section(2, b"\1\0\0\x05\0")), "5 isn't a kind of import"),
    "a name that isn't UTF-8": (
        w.module(TYPES, FUNCTIONS, w.section(7, w.vector([w.export(b"\xff")]))),
        "isn't valid UTF-8",
    ),
    "a surrogate in a name": (
        w.module(TYPES, FUNCTIONS, w.section(7, w.vector([w.export(b"\xed\xa0\x80")]))),
        "isn't valid UTF-8",
    ),
    "a custom section's name that isn't UTF-8": (w.module(w.section(0, w.name(b"\xc0\x80"))), "isn't valid UTF-8"),
    "a name past its section": (w.module(w.section(0, b"\x7fabc")), "127 bytes are announced, 3 are there"),
    "a start that isn't there": (w.module(w.section(8, b"\0")), "func 0 is named, there are 0"),
    "a start with a parameter": (
        w.module(w.section(1, w.vector([w.func_type(["i32"])])), FUNCTIONS, w.section(8, b"\0"), CODE),
        "neither parameters nor results",
    ),
    "a body past its section": (w.module(TYPES, FUNCTIONS, w.section(10, b"\1\x7f\0\x0b")), "a function has 127 bytes"),
    "an empty body": (w.module(TYPES, FUNCTIONS, w.section(10, b"\1\0\0\x0b")), "locals run past its end"),
    "locals past their body": (
        w.module(TYPES, FUNCTIONS, w.section(10, b"\1\2\1\1\x7f\x0b")),
        "locals run past its end",
    ),
    "a global that is computed": (
        w.module(w.section(6, b"\1\x7f\0\x10\0\x0b")),
        "0x10 isn't an instruction of a const",
    ),
    "a global without an end": (w.module(w.section(6, b"\1\x7f\0\x41\0")), "ends in the middle"),
    "a constant that is overlong": (w.module(w.section(6, b"\1\x7f\0\x41" + OVERLONG + b"\x0b")), "at most 5 bytes"),
    "a mutability that isn't": (w.module(w.section(6, b"\1\x7f\2\x41\0\x0b")), "mutability is 0 or 1, not 2"),
    "limits the wrong way round": (w.module(w.section(5, b"\1\1\5\4")), "a maximum of 4, below their minimum of 5"),
    "limits' flags that aren't": (w.module(w.section(5, b"\1\x10\0")), "0x10 aren't flags"),
    "a table with an initial value that isn't": (w.module(w.section(4, b"\1\x40\1\x70\0\0")), "starts with 40 00"),
    "a table of numbers": (w.module(w.section(4, b"\1\x7f\0\0")), "i32 isn't a reference type"),
    "a heap type that isn't": (w.module(w.section(1, w.vector([b"\x60\1\x64\x40\0"]))), "0x40 isn't a heap type"),
    "a heap type below zero": (w.module(w.section(1, w.vector([b"\x60\1\x64\x80\x40\0"]))), "neither one"),
    "a heap type of 33 bits": (w.module(w.section(1, w.vector([b"\x60\1\x64\x80\x80\x80\x80\x70\0"]))), "too large"),
    "a tag's attribute that isn't": (w.module(TYPES, w.section(13, b"\1\1\0")), "attribute must be 0"),
}

NOT_CORE = {
    "text": (b"(module)", "module_text", "text format"),
    "text behind a comment": (b" \n\t(; note ;) (module)", "module_text", "text format"),
    "text behind a line of comment": (b";; note\n(module)", "module_text", "text format"),
    "a component's head": (b"\0asm\x0d\0\1\0", "module_component", "this is a component"),
    "a component": (b"\0asm\x0d\0\1\0\0\0\0\0", "module_component", "this is a component"),
    "an ELF file": (b"\x7fELF\2\1\1\0" + bytes(56), "module_precompiled", "compiled code (ELF)"),
}
