"""Small guests in the text format, each with what its tests need to see and nothing else."""

from __future__ import annotations

_WASI = '(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) (result i32)))'
_FD_WRITE = _WASI.format(name="fd_write", params="i32 i32 i32 i32")
_FD_READ = _WASI.format(name="fd_read", params="i32 i32 i32 i32")
_POLL = _WASI.format(name="poll_oneoff", params="i32 i32 i32 i32")
# Writes $length bytes from $at to $fd.
_SAY = """(func $say (param $fd i32) (param $at i32) (param $length i32) (result i32)
  (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
  (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))"""
# Sleeps in the host for so many milliseconds, by the monotonic clock: a subscription at 64, its event at 128.
_SLEEP = """(func $sleep (export "sleep") (param $ms i64)
  (i32.store (i32.const 80) (i32.const 1))
  (i64.store (i32.const 88) (i64.mul (local.get $ms) (i64.const 1000000)))
  (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192))))"""

# What a module of another making needs to sleep.
SLEEPING = f'{_POLL} (memory (export "memory") 1) {_SLEEP}'

# Every number type, there and back.
NUMBERS = """(module
 (func (export "i32") (param i32) (result i32) local.get 0)
 (func (export "i64") (param i64) (result i64) local.get 0)
 (func (export "f32") (param f32) (result f32) local.get 0)
 (func (export "f64") (param f64) (result f64) local.get 0)
 (func (export "all") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
  local.get 3 local.get 2 local.get 1 local.get 0)
 (func (export "none")))"""

# Says "before" to stdout and "aside" to stderr, then: `loop` for ever, `block` for an hour, `sleep` some ms.
SLEEPER = f"""(module {_FD_WRITE} {_POLL}
 (memory (export "memory") 1) (data (i32.const 1024) "before\\nafter\\naside\\n")
 {_SAY} {_SLEEP}
 (func $hello (drop (call $say (i32.const 1) (i32.const 1024) (i32.const 7)))
  (drop (call $say (i32.const 2) (i32.const 1037) (i32.const 6))))
 (func (export "loop") (call $hello) (loop $l (br $l)))
 (func (export "block") (call $hello) (call $sleep (i64.const 3600000)))
 (func (export "nap") (param i64) (call $hello) (call $sleep (local.get 0))
  (drop (call $say (i32.const 1) (i32.const 1031) (i32.const 6))))
 (func (export "_start")))"""

# Counts in a global and in memory: 1 in a fresh instance, more in one that was used before.
COUNTER = """(module (memory (export "memory") 1) (global $n (mut i32) (i32.const 0))
 (func (export "count") (result i32 i32)
  (global.set $n (i32.add (global.get $n) (i32.const 1)))
  (i32.store (i32.const 4096) (i32.add (i32.load (i32.const 4096)) (i32.const 1)))
  (global.get $n) (i32.load (i32.const 4096)))
 (func (export "grow") (result i32) (memory.grow (i32.const 1)))
 (func (export "trap") (i32.store (i32.const 4096) (i32.const 99)) unreachable))"""

# Copies at most 16 bytes of stdin to stdout, and leaves the rest unread.
SIPPER = f"""(module {_FD_WRITE} {_FD_READ} (memory (export "memory") 1) {_SAY}
 (func (export "_start")
  (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 16))
  (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 12)))
  (drop (call $say (i32.const 1) (i32.const 1024) (i32.load (i32.const 12))))))"""

# `fill` writes blocks of 600 bytes for ever, `exact` so many blocks and no more. Blocks are `a`s then `b`s, in turn.
FLOOD = f"""(module {_FD_WRITE} (memory (export "memory") 1) {_SAY}
 (func $block (param $fd i32) (param $n i32)
  (memory.fill (i32.const 1024) (i32.add (i32.const 97) (i32.and (local.get $n) (i32.const 1))) (i32.const 600))
  (drop (call $say (local.get $fd) (i32.const 1024) (i32.const 600))))
 (func (export "fill") (param $fd i32) (local $n i32)
  (loop $l (call $block (local.get $fd) (local.get $n)) (local.set $n (i32.add (local.get $n) (i32.const 1)))
   (br $l)))
 (func (export "exact") (param $blocks i32) (local $n i32)
  (loop $l (call $block (i32.const 1) (local.get $n)) (local.set $n (i32.add (local.get $n) (i32.const 1)))
   (br_if $l (i32.lt_u (local.get $n) (local.get $blocks))))))"""

TRAPS = """(module (memory (export "memory") 1) (table 1 funcref) (type $none (func))
 (func (export "unreachable") unreachable)
 (func (export "division") (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
 (func (export "overflow") (result i32) (i32.div_s (i32.const 0x80000000) (i32.const -1)))
 (func (export "conversion") (param f64) (result i32) (i32.trunc_f64_s (local.get 0)))
 (func (export "out_of_bounds") (result i32) (i32.load (i32.const 0x7ffffff0)))
 (func (export "null_call") (call_indirect (type $none) (i32.const 0)))
 (func $deep (export "recursion") (param i32) (result i32)
  (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1))))))"""

GROWER = """(module (memory (export "memory") 1)
 (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
 (func (export "hog") (loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable)
 (func (export "touch") (param $pages i32) (result i32)
  (drop (memory.grow (local.get $pages)))
  (memory.fill (i32.const 0) (i32.const 7) (i32.mul (memory.size) (i32.const 65536)))
  (i32.load8_u (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)))))"""

# What an import that the worker lacks gives when it is stubbed: 0 for a number.
LACKING = """(module (import "env" "answer" (func $answer (param i32) (result i32)))
 (import "env" "tell" (func $tell (param i64 f64)))
 (func (export "ask") (result i32) (call $tell (i64.const 1) (f64.const 2))
  (i32.add (i32.const 5) (call $answer (i32.const 3)))))"""
LACKING_GLOBAL = """(module (import "env" "limit" (global i32)) (func (export "ask") (result i32) global.get 0))"""


def with_start(body: str) -> str:
    """A command whose start function is `body`; its memory is exported."""
    return f"""(module {_POLL} (memory (export "memory") 1) {_SLEEP}
 (func $start {body}) (start $start) (func (export "_start")))"""


def unique(number: int) -> str:
    """A command like no other: by an export of its own."""
    return f'(module (func (export "_start")) (func (export "n{number}")))'


def slow_to_compile(functions: int) -> str:
    """A small valid module that is hard to compile: each function takes half a second, for 900 values live at once."""
    live = 900
    step = "(if (local.get {0}) (then (local.set {0} (i32.add (local.get {0}) (local.get {1})))))"
    steps = "".join(step.format(n, (n * 7 + 1) % live) for n in range(live)) * 2
    many = f"(func (param {'i32 ' * live}) (loop $l {steps} (br_if $l (local.get 1))))" * functions
    return f'(module (func (export "_start")) {many})'


# Well-formed and not valid: static admission lets it pass, the compiler refuses it.
INVALID = """(module (func (result i32)) (func (export "_start")))"""
