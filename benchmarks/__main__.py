"""`python -m benchmarks [--quick] [--only SECTION] [--json FILE]`: run, print a table, and keep the raw samples."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks import calls, jobs, sealing
from benchmarks.measure import Row, table
from benchmarks.peers import PeerMissing

SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "jobs": jobs.rows,
    "sealing": sealing.rows,
    "warm": calls.warm,
    "cold": calls.cold,
    "density": calls.density,
}


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("wasmtime", "falcon", "gunicorn", "uvloop")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a figure")
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append", help="this section alone; may be repeated")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="append every row with its raw samples, as JSON lines"
    )
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.only or SECTIONS:
        try:
            for row in SECTIONS[name](options.quick):
                rows.append(row)
                print(f"measured: {row.what} / {row.peer_name or 'no peer'}", file=sys.stderr, flush=True)
        except PeerMissing as missing:
            print(f"skipped: section {name}: {missing}")
    print(table(rows))
    if options.json is not None:
        with options.json.open("a") as file:
            for row in rows:
                file.write(json.dumps({**machine(), "quick": options.quick, **row.document()}) + "\n")


if __name__ == "__main__":
    main()
