"""How results look: at a terminal, in a pipe, with NO_COLOR; and that nothing of a stranger steers a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from worker.cli import show

RED = "\x1b[31m"


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = io.BytesIO()  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_a_terminal_has_colours_unless_they_are_unwanted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = show.table(("STATE",), [("failed",)])
    show.console(terminal).print(rows)
    assert RED in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    show.console(plain).print(rows)
    assert RED not in plain.getvalue()
    assert "failed" in plain.getvalue()


def test_a_pipe_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    show.show(show.table(("NAME", "STATE"), [("x" * 500, "failed")]))
    assert f"{'NAME':<500}  STATE\n{'x' * 500}  failed\n" == capsys.readouterr().out


def test_nothing_is_cut_to_fit_a_terminal(terminal: Terminal) -> None:
    show.show(show.table(("NAME", "STATE"), [("x" * 500, "failed")]), terminal)
    assert f"{'x' * 500}  {RED}failed" in terminal.getvalue()


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\rb", "\x07", "\u202eabc", "[red]x[/red]"])
def test_no_cell_is_a_control_sequence_or_markup(terminal: Terminal, text: str) -> None:
    show.console(terminal).print(show.pairs([("name", text)]))
    told = terminal.getvalue()
    assert not {"\x1b[2J", "\x9b", "\r", "\x07", "\u202e"} & {*told, told[told.find("\x1b[2J") :][:4]}
    assert show.harmless(text) in told


def test_what_a_guest_wrote_is_harmless_at_a_terminal_and_whole_elsewhere(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    screen = Terminal()
    show.write_bytes(b"a\x1b[2J\xff\tb\n", screen, raw=False)
    assert b"a\\x1b[2J\\xff\tb\n" == screen.buffer.getvalue()  # type: ignore[attr-defined]
    raw = Terminal()
    show.write_bytes(b"a\x1b[2J", raw)
    assert b"a\x1b[2J" == raw.buffer.getvalue()  # type: ignore[attr-defined]
    show.write_bytes(b"a\x1b[2J\xff", raw=False)
    assert b"a\x1b[2J\xff" == capfdbinary.readouterr().out


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(value: int | None, expected: str) -> None:
    assert expected == show.size(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((None, "-"), (0, "0 s"), (7, "7 us"), (1500, "1.5 ms"), (5_000_000, "5 s"), (5_500_000, "5.5 s")),
        *((300 * 10**6, "5 min"), (7200 * 10**6, "2 h"), (864_000 * 10**6, "10 d")),
    ],
)
def test_durations(value: int | None, expected: str) -> None:
    assert expected == show.duration(value)


def test_an_age_is_never_less_than_nothing() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert ["5 s", "0 s"] == [show.ago(now - timedelta(seconds=s), now) for s in (5.4, -3)]


def test_bars_are_for_terminals(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    with show.uploading(100, "uploading a.wasm") as on_sent:
        on_sent(100)
    assert "uploading a.wasm" in terminal.getvalue()
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    with show.uploading(100, "uploading a.wasm") as on_sent, show.waiting("for it"):
        on_sent(100)
    assert "" == pipe.getvalue()
