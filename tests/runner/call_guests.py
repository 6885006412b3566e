"""Guests that are called, in the text format."""

from __future__ import annotations

_WASI = """(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2) (global $calls (mut i32) (i32.const 0))
    (func $say (param $fd i32) (param $at i32) (param $size i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
        (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func $hear (param $at i32) (param $size i32) (result i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.load (i32.const 8)))"""


def handler(body: str, more: str = "") -> str:
    """A module whose `_start` has `body`, with WASI, $say (stream, address, size) and $hear (address, size)."""
    return f'(module {_WASI} {more} (func (export "_start") (local $n i32) {body}))'


# Answers its body, read in pieces of 50,000 bytes.
ECHO = handler("""(loop $more (local.set $n (call $hear (i32.const 1024) (i32.const 50000)))
    (if (local.get $n) (then (call $say (i32.const 1) (i32.const 1024) (local.get $n)) (br $more))))""")
# Answers its variables, each ended by a NUL, then its arguments.
ENVIRONMENT = handler("""(drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $environ (i32.const 4096) (i32.const 8192)))
    (call $say (i32.const 1) (i32.const 8192) (i32.load (i32.const 20)))
    (drop (call $args (i32.const 4096) (i32.const 20000)))
    (call $say (i32.const 1) (i32.const 20000) (i32.const 8))""")
LOOP, TRAP, EXIT, ZERO, LOG, SLEEP, FLOOD = b"l", b"t", b"x", b"z", b"g", b"s", b"f"
_DEEDS = {
    LOOP: "(loop $for_ever (br $for_ever))",
    TRAP: "unreachable",
    EXIT: "(call $exit (i32.const 7))",
    ZERO: "(call $say (i32.const 1) (i32.const 3072) (i32.const 2)) (call $exit (i32.const 0))",
    LOG: """(loop $m (call $say (i32.const 2) (i32.const 2048) (i32.const 1000))
        (br_if $m (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))
        (call $say (i32.const 1) (i32.const 3072) (i32.const 2)) (call $exit (i32.const 0))""",
    SLEEP: """(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 3600000000000))
        (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))""",
    FLOOD: "(call $say (i32.const 1) (i32.const 2048) (i32.const 4096))",
}
# Does what the first byte of its body says.
DEEDS = handler(
    "(drop (call $hear (i32.const 1024) (i32.const 1)))"
    + "".join(
        f"(if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const {deed[0]})) (then {done}))"
        for deed, done in _DEEDS.items()
    ),
    '(data (i32.const 3072) "ok")',
)

# Counts its calls in a global and in memory, and leaves most of its body unread.
COUNT = handler("""(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i32.store8 (i32.const 1024) (i32.add (i32.const 48) (global.get $calls)))
    (i32.store8 (i32.const 1025) (i32.add (i32.load8_u (i32.const 1025)) (i32.const 1)))
    (i32.store8 (i32.const 1026) (i32.add (i32.const 48) (i32.load8_u (i32.const 1025))))
    (drop (call $hear (i32.const 2000) (i32.const 1)))
    (i32.store8 (i32.const 1027) (i32.load8_u (i32.const 2000)))
    (if (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 88)) (then unreachable))
    (if (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 71)) (then (drop (memory.grow (i32.const 10)))))
    (if (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 90)) (then (call $exit (i32.const 0))))
    (i32.store8 (i32.const 1025) (i32.sub (i32.load8_u (i32.const 1026)) (i32.const 48)))
    (call $say (i32.const 1) (i32.const 1024) (i32.const 1))
    (call $say (i32.const 1) (i32.const 1026) (i32.const 2))""")

NUMBERS = """(module (memory (export "memory") 1) (global $g (mut i32) (i32.const 5))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "swap") (param i64 f64 f32) (result f32 f64 i64) (local.get 2) (local.get 1) (local.get 0))
    (func (export "next") (result i32) (global.set $g (i32.add (global.get $g) (i32.const 1))) (global.get $g))
    (func (export "spin") (loop $l (br $l)))
    (func (export "divide") (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
    (func (export "vector") (result v128) (v128.const i64x2 0 0)))"""
