"""The zygote that `benchmarks.sealing` measures beside: it finds no layer possible, so that its children apply none."""

from __future__ import annotations

from typing import Any, NoReturn

from runner import inherit, zygote


def main(argv: list[str]) -> NoReturn:
    original = inherit.inherit

    def without(inheritance: inherit.Inheritance, *how: Any) -> None:
        original(inheritance, *how)
        inheritance.layers = frozenset()

    inherit.inherit = without  # type: ignore[assignment]
    zygote.main(argv)
