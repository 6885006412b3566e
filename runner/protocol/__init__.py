"""What coordinator, zygote, runner and compiler say to each other, as bytes. No socket is touched here.

Conversations, all little-endian, one module each: `status` (runner to coordinator, hostile), `control` (coordinator to
runner), `spawn` (coordinator and zygote), `call` (API worker and runner, hostile one way) and `record` (memory that a
runner shares with the coordinator, hostile). This module holds the words that they share.
"""

from __future__ import annotations

VERSION = 1
MAX_DETAIL_BYTES = 4096

CONTROL_FD = 3
STATUS_FD = 4

# Profiles of a forked process (what it is for decides what it may do).
PROFILE_RUNNER, PROFILE_FILES, PROFILE_COMPILER, PROFILE_SERVER, PROFILE_FILES_SERVER = range(5)
PROFILE_NAMES = {
    PROFILE_RUNNER: "runner",
    PROFILE_FILES: "files",
    PROFILE_COMPILER: "compiler",
    PROFILE_SERVER: "server",
    PROFILE_FILES_SERVER: "files_server",
}
# Those that serve calls, and those that have volumes.
SERVERS = frozenset({PROFILE_SERVER, PROFILE_FILES_SERVER})
WITH_FILES = frozenset({PROFILE_FILES, PROFILE_FILES_SERVER})

# Layers of the seal, as bits of READY.layers.
LAYERS = (
    "uid",
    "chroot",
    "namespaces",
    "rlimits",
    "no_new_privs",
    "landlock",
    "pdeathsig",
    "nondumpable",
    "mdwe",
    "seccomp",
    "oom_score",
    "cgroup",
)
LAYER_BITS = {name: 1 << index for index, name in enumerate(LAYERS)}

# Number types of Wasm values; the payload is always 64 raw bits.
I32, I64, F32, F64 = range(4)
VALUE_NAMES = ("i32", "i64", "f32", "f64")
