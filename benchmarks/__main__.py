"""What the worker costs, beside what one would use instead, on this machine: measured, told, kept and drawn."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from subprocess import SubprocessError

from benchmarks import compare, plots, report, results
from benchmarks.bench import Bench
from benchmarks.effort import CHECK, FULL, QUICK, Effort
from benchmarks.measure import Row
from benchmarks.peers import PeerMissing
from benchmarks.progress import Progress
from benchmarks.sections import SECTIONS, Section


@dataclass(slots=True)
class Outcome:
    """What a run gave."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a section failed, or nothing was measured."""
    options = _parser().parse_args(arguments)
    if options.read is not None:
        run, rows = results.read(options.read)
        outcome = Outcome([row for row in rows if not options.only or row.section in options.only])
    else:
        run = results.machine(options.effort)
        chosen = [section for section in SECTIONS if not options.only or section.name in options.only]

        def keep(row: Row) -> None:
            if options.json is not None:
                results.write(options.json, run, [row])

        outcome = measure(chosen, options.effort, keep)
    changes = None
    if options.compare is not None:
        old_run, old = results.read(options.compare)
        changes = compare.compare(old, outcome.rows)
        for difference in compare.differences(old_run, run):
            print(f"not the same: {difference}")
    print(report.text(outcome.rows, changes))
    if options.plot is not None:
        _draw(outcome, options.plot)
    if options.markdown is not None:
        options.markdown.write_text(report.markdown(outcome.rows, run, outcome.skipped, changes))
    for what in outcome.skipped:
        print(f"skipped: {what}")
    for what in outcome.failed:
        print(f"FAILED: {what}")
    return 0 if outcome.rows and not outcome.failed else 1


def measure(sections: Sequence[Section], effort: Effort, keep: Callable[[Row], None]) -> Outcome:
    """The rows of all sections, each kept as soon as it is there; one that can't be measured leaves the rest alone."""
    rows: list[Row] = []
    share = effort.seconds / sum(section.share for section in SECTIONS)
    with Progress(share * sum(section.share for section in sections)) as progress, Bench(effort, progress) as bench:
        for section in sections:
            progress.section(section.name, share * section.share)
            started, before = time.monotonic(), len(rows)
            try:
                if not section.shares_node:
                    bench.release()
                for row in section.rows(bench):
                    row.section = section.name
                    rows.append(row)
                    keep(row)
                    progress.tick(f"{section.name}: {row.what}")
            except PeerMissing as missing:
                bench.skip(f"section {section.name}: {missing}")
            except (AssertionError, OSError, HTTPException, SubprocessError) as wrong:
                bench.fail(f"section {section.name}: {wrong!r}")
                traceback.print_exc()
                bench.release()  # who knows in which state it is
            progress.say(f"{section.name}: {len(rows) - before} rows in {time.monotonic() - started:.0f} s")
        return Outcome(rows, bench.skipped, bench.failed)


def _draw(outcome: Outcome, directory: Path) -> None:
    try:
        for path in plots.draw(outcome.rows, directory):
            print(f"drawn: {path}", file=sys.stderr)
    except PeerMissing as missing:
        outcome.skipped.append(str(missing))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_const", const=QUICK, dest="effort", help="two minutes: for a look")
    effort.add_argument(
        "--check",
        action="store_const",
        const=CHECK,
        dest="effort",
        help="only see that everything runs and answers right",
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument(
        "--only", choices=names, action="append", metavar="SECTION", help=f"may be repeated: {', '.join(names)}"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="append every row with its raw samples, as JSON lines"
    )
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing, take the rows of such a file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="mark what changed beyond the spread since then")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a page of results")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the curves as SVG")
    parser.set_defaults(effort=FULL)
    return parser


if __name__ == "__main__":
    sys.exit(main())
