"""Admission or a codec under a fuzzer that is led by coverage, without end; needs atheris, which `make fuzz` doesn't.

    python -m tests.hostile.fuzz_atheris admission CORPUS [-max_total_time=S]
    python -m tests.hostile.fuzz_atheris job CORPUS [-max_total_time=S]        or another name of `fuzzed_codecs`

CORPUS is a directory; for admission the seeds go there first. What is asserted, or raised and may not be, ends it, with
the input in a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["runner", "worker"]):
    from tests.hostile import fuzzed_codecs, fuzzing

ADMISSION = "admission"


def main() -> None:
    name = sys.argv.pop(1)
    corpus = Path(sys.argv[1])
    corpus.mkdir(exist_ok=True)
    if name == ADMISSION:
        for number, seed in enumerate(fuzzing.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
    target = fuzzing.check if name == ADMISSION else fuzzed_codecs.DECODERS[name]

    def one(data: bytes) -> None:
        target(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
