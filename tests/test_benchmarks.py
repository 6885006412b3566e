"""benchmarks: what is told, kept, compared and drawn; and that every section still runs and is answered right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest
import wasmtime

from benchmarks import __main__ as program
from benchmarks import load, plots, report, results
from benchmarks.bench import Bench
from benchmarks.compare import compare, differences
from benchmarks.curves import curves
from benchmarks.effort import CHECK, FULL, QUICK, Effort
from benchmarks.measure import Aim, Row, alternate
from benchmarks.modules import HELLO, never_seen
from benchmarks.peers import PeerMissing
from benchmarks.progress import Progress
from benchmarks.sections import SECTIONS, Section, warm_call
from benchmarks.table_builder import grow, task_id
from benchmarks.timing import rate
from tests.shared.samples import insert, make_task, update
from worker.core.task import State
from worker.shared.table import TableReader, TableWriter, TaskFilter

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
NAMES = {
    *("cold job", "job throughput", "cold call", "warm call", "concurrency", "density", "startup"),
    *("compile and cache", "compute overhead", "sealing cost", "table at size"),
}

Rows = Callable[[Bench], Iterator[Row]]


def row(what: str = "hello", ours: float = 2.0, peer: float = 4.0, **more: object) -> Row:
    """A row of the section `one`, whose samples scatter by a tenth."""
    made = Row.of(what, "ms", [ours * 0.9, ours, ours * 1.1], ("peer", [peer * 0.9, peer, peer * 1.1]), **more)
    made.section = "one"
    return made


def curve(points: tuple[int, ...] = (1, 16, 512)) -> list[Row]:
    """Latency of two contenders, by connections."""
    return [row("ours & more", 2.0 + at, 4.0 + at, axis="connections", at=at) for at in points]


def sections(monkeypatch: pytest.MonkeyPatch, **rows: Rows) -> None:
    monkeypatch.setattr(program, "SECTIONS", tuple(Section(name, each, 1, False) for name, each in rows.items()))


# -- a run ---------------------------------------------------------------------------------------------------------


def test_the_sections_are_those_that_were_asked_for() -> None:
    assert NAMES == {section.name for section in SECTIONS}


def test_what_lacks_something_is_skipped_by_its_name_and_loses_nothing_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(_: Bench) -> Iterator[Row]:
        yield row("the second")
        raise PeerMissing("the load generator: apt-get install wrk")

    sections(monkeypatch, a=lambda _: iter([row("the first")]), b=lacks, c=lambda _: iter([row("the third")]))
    assert 0 == program.main([])
    said = capsys.readouterr().out
    assert "skipped: section b: the load generator: apt-get install wrk" in said
    assert [True] * 3 == [f"the {which}" in said for which in ("first", "second", "third")]


def test_a_section_that_fails_is_told_and_what_was_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(_: Bench) -> Iterator[Row]:
        yield row("the first")
        raise AssertionError("hello, but not the world")

    sections(monkeypatch, a=fails, b=lambda _: iter([row("the second")]))
    assert 1 == program.main(["--json", str(tmp_path / "rows.jsonl")])
    assert "FAILED: section a: AssertionError('hello, but not the world')" in capsys.readouterr().out
    assert ["the first", "the second"] == [each.what for each in results.read(tmp_path / "rows.jsonl")[1]]


def test_a_run_without_a_row_is_told_by_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    sections(monkeypatch, a=lambda _: iter([]))
    assert 1 == program.main([])


def test_without_a_load_generator_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.shutil, "which", lambda _: None)
    with Progress(1) as progress, Bench(CHECK, progress) as bench, pytest.raises(PeerMissing, match="wrk"):
        next(warm_call.rows(bench))


def test_contenders_take_turns_and_may_give_anything() -> None:
    turns: list[str] = []

    def contender(name: str) -> list[str]:
        turns.append(name)
        return [name]

    assert [["a", "a"], ["b", "b"]] == alternate(2, lambda: contender("a"), lambda: contender("b"))
    assert ["a", "b", "a", "b"] == turns


def test_a_client_that_fails_fails_the_measurement() -> None:
    def fails(_: None) -> None:
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        rate(fails, nullcontext, 2, 0.1)


@pytest.mark.parametrize(
    ("effort", "some", "few"),
    [(FULL, [1, 2, 4, 8, 512], [1, 2, 4, 8, 512]), (QUICK, [1, 4, 512], [1, 4, 8]), (CHECK, [4], [1])],
    ids=["full", "quick", "check"],
)
def test_a_shorter_run_takes_fewer_points_of_a_curve(effort: Effort, some: list[int], few: list[int]) -> None:
    assert (some, few) == (effort.some([1, 2, 4, 8, 512]), effort.few([1, 2, 4, 8, 512]))


# -- aims, files, comparison ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim("<=", 0.5), True),
        (Aim("<", 0.5), False),
        (Aim(">=", 0.6), False),
        (Aim("<=", 2, "ours"), True),
        (Aim("<=", -2, "extra"), True),
        (Aim("<=", -2.1, "extra"), False),
    ],
    ids=str,
)
def test_an_aim_is_met_or_missed(aim: Aim, met: bool) -> None:
    assert met is row(ours=2.0, peer=4.0, aim=aim).met


def test_without_a_peer_an_aim_at_the_ratio_is_neither() -> None:
    assert Row.of("hello", "ms", [1.0], aim=Aim("<=", 1)).met is None


def test_rows_come_back_from_their_file_as_they_were_the_last_of_each(tmp_path: Path) -> None:
    path, run = tmp_path / "rows.jsonl", results.machine(CHECK)
    first, again, other = row(aim=Aim("<=", 1)), row(ours=3.0, aim=Aim("<=", 1)), curve((1,))[0]
    results.write(path, run, [first, other])
    results.write(path, run, [again])
    assert (run, [again, other]) == results.read(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [version("wasmtime")] * 3 == [line["run"]["versions"]["wasmtime"] for line in lines]
    assert {"ours": [1.8, 2.0, 2.2], "peer": [3.6, 4.0, 4.4]} == lines[0]["samples"]


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (row(), row(ours=2.1), ""),  # within the spread
        (row(), row(ours=4.0), "worse"),
        (row(), row(ours=1.0), "better"),
        (row(), row(ours=4.0, peer=8.0), ""),  # the machine is slower: so is the peer
        (Row.of("x", "calls/s", [1.0]), Row.of("x", "calls/s", [2.0]), "better"),
    ],
    ids=["scatter", "slower", "faster", "machine", "rate"],
)
def test_a_change_is_one_beyond_the_spread(old: Row, new: Row, verdict: str) -> None:
    assert [verdict] == [change.verdict for change in compare([old], [new]).values()]


def test_only_what_was_in_both_runs_is_compared() -> None:
    assert {row("b").key} == set(compare([row("a"), row("b")], [row("b"), row("c")]))


def test_what_differs_between_the_machines_is_told() -> None:
    run = results.machine(CHECK)
    assert [] == differences(run, run)
    assert ["cores: 2 then, 64 now"] == differences(run | {"cores": 2}, run | {"cores": 64})


def test_an_older_run_is_read_and_compared_without_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, page = tmp_path / "old.jsonl", tmp_path / "new.jsonl", tmp_path / "page.md"
    results.write(old, results.machine(CHECK), [row()])
    results.write(new, results.machine(CHECK), [row(ours=8.0, aim=Aim("<=", 1)), *curve()])
    assert 0 == program.main(["--read", str(new), "--compare", str(old), "--markdown", str(page)])
    assert "x4.00 WORSE" in capsys.readouterr().out
    assert (
        "| one | hello | 8.00 ms | 7.60-8.40 | peer | 4.00 | 3.80-4.20 | 2.00 | ratio <= 1 | missed | x4.00 WORSE |"
        in page.read_text()
    )


# -- what people see -----------------------------------------------------------------------------------------------


def test_the_page_has_conditions_aims_sections_curves_and_what_was_skipped() -> None:
    page = report.markdown([row(aim=Aim("<=", 1)), *curve()], results.machine(CHECK), ["workerd: npm install workerd"])
    expected = ["Aims: 1 met, 0 missed.", "## One", "### one: ms by connections", "| 512 | 514 | 516 |"]
    expected += ["Settings: `check`", "- workerd: npm install workerd"]
    assert [] == [text for text in expected if text not in page]


def test_a_plot_names_its_axes_its_points_and_everybody_in_it(tmp_path: Path) -> None:
    (path,) = plots.draw(curve(), tmp_path)
    said = {"".join(text.itertext()).strip() for text in ElementTree.parse(path).getroot().iter(f"{SVG}text")}
    assert {"one: ms by connections", "milliseconds", "connections", "ours & more", "peer", "1", "16", "512"} <= said


def test_the_same_rows_draw_the_same_file(tmp_path: Path) -> None:
    (first,), (again,) = plots.draw(curve(), tmp_path / "a"), plots.draw(curve(), tmp_path / "b")
    assert first.read_bytes() == again.read_bytes()


def test_one_point_is_no_curve_to_draw(tmp_path: Path) -> None:
    assert [] == plots.draw(curve((1,)), tmp_path)
    assert 1 == len(curves(curve((1,))))


# -- what is measured with -----------------------------------------------------------------------------------------


def test_a_module_that_was_never_seen_is_another_and_still_one() -> None:
    made = {never_seen(HELLO, number) for number in range(3)}
    assert 3 == len(made - {HELLO})
    for module in made:
        wasmtime.Module.validate(wasmtime.Engine(), module)


def test_a_grown_table_reads_as_one_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    with closing(TableWriter(path)) as writer:
        task = make_task(1, created_at_us=10**15, token="t")
        writer.apply([insert(1, created_at_us=10**15, token="t"), update(task, State.COMPLETED, finished_at_us=10**15)])
    grow(path, 0, 40, 100)
    with closing(TableWriter(path)) as writer:
        writer.apply([insert(2, created_at_us=10**15 + 1, token="t")])  # a real one in between
    grow(path, 40, 100, 100)
    with closing(TableReader(path)) as reader:
        page, after = reader.tasks(TaskFilter(state=State.COMPLETED, limit=100))
        assert [make_task(1).id, *map(task_id, range(100, 1, -1))] == [task.id for task in page]
        assert after is not None
        assert 101 == reader.counts()[State.COMPLETED]
        assert 0 < len(reader.notes(task_id(50)))
        assert reader.notes(make_task(1).id) == reader.notes(task_id(50))


@pytest.mark.timeout(300)
def test_every_section_runs_and_is_answered_right(tmp_path: Path) -> None:
    """As short as it can be: outputs are checked by the sections themselves, and no figure is looked at."""
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks", "--check", "--json", str(rows), "--markdown", str(page)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert 0 == ran.returncode, ran.stderr
    _, found = results.read(rows)
    skipped = {name for name in NAMES if f"skipped: section {name}: " in ran.stdout}
    assert NAMES - skipped == {each.section for each in found}
    assert [] == [each for each in found if each.ours.median <= 0 and each.unit != "% of a core"]
    assert [] == [name for name in NAMES - skipped if f"## {name.capitalize()}\n" not in page.read_text()]
