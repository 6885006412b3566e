"""Admission under a fuzzer that is led by coverage, without end; needs atheris, which `make fuzz` doesn't.

    python -m tests.hostile.fuzz_atheris CORPUS [-max_total_time=S]

CORPUS is a directory; the seeds go there first. What `fuzzing.check` asserts ends it, with the input in a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["runner"]):
    from tests.hostile import fuzzing


def one(data: bytes) -> None:
    fuzzing.check(data)


def main() -> None:
    corpus = Path(sys.argv[1])
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(fuzzing.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
