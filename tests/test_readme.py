"""The README says what the code does."""

from __future__ import annotations

from tests.readme import README, generated


def test_its_generated_blocks_are_those_of_this_code() -> None:
    text = README.read_text()
    assert generated(text) == text, "run `python -m tests.readme`"
