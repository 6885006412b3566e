"""benchmarks: what is measured before something is missing isn't lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from benchmarks import __main__ as program
from benchmarks import calls, load
from benchmarks.measure import Row, Summary, alternate
from benchmarks.peers import PeerMissing


def row(what: str) -> Row:
    return Row("section", what, "ms", "lower", Summary.of([1.0, 2.0]))


def test_a_section_that_lacks_something_is_skipped_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(_: bool) -> Iterator[Row]:
        yield row("the second")
        raise PeerMissing("the load generator: apt-get install wrk")

    sections = {"a": lambda _: iter([row("the first")]), "b": lacks, "c": lambda _: iter([row("the third")])}
    monkeypatch.setattr(program, "SECTIONS", sections)
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    program.main()
    said = capsys.readouterr().out
    assert "skipped: section b: the load generator: apt-get install wrk" in said
    assert [True] * 3 == [f"the {which}" in said for which in ("first", "second", "third")]


def test_without_a_load_generator_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.shutil, "which", lambda _: None)
    with pytest.raises(PeerMissing, match="wrk"):
        next(calls.warm(True))


def test_contenders_take_turns_and_may_give_anything() -> None:
    turns: list[str] = []

    def contender(name: str) -> list[str]:
        turns.append(name)
        return [name]

    assert [["a", "a"], ["b", "b"]] == alternate(2, lambda: contender("a"), lambda: contender("b"))
    assert ["a", "b", "a", "b"] == turns
