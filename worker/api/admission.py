"""What a module's interface says of a task at the time when it is posted: imports, entry, parameters.

Facts are kept by digest: a module never changes, only whether it is here does, and that is the coordinator's to say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from runner.interface import WASI_FUNCTIONS, WASI_MODULE, check_entry, unknown_imports
from worker.api.problems import Problem
from worker.core.module import Extern, Module

_MAX_KEPT = 256
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """`lacking`: imports that the worker hasn't got; `unstubbable`: those of them that no stub can stand in for."""

    module: Module
    functions: dict[str, Extern]
    lacking: tuple[Extern, ...]
    unstubbable: tuple[Extern, ...]

    @classmethod
    def of(cls, module: Module) -> Facts:
        missing = {id(found) for found in unknown_imports(module)}
        lacking = tuple([wanted for wanted in module.imports if id(wanted) in missing])
        return cls(
            module,
            {found.name: found for found in module.exports if found.kind == "func"},
            lacking,
            tuple([wanted for wanted in lacking if not _can_stub(wanted)]),
        )

    def check(self, export: str | None, unknown: str) -> tuple[str, ...]:
        """Whether a task can run the module, entered at `export`, or at `_start` where that is None.

        Returns:
            The types of the parameters that the entry takes.

        Raises:
            Problem: import_unknown, entry_invalid.
        """
        self._check_imports(unknown)
        wrong = check_entry(self.module, export)
        if wrong:
            field = "entry.export" if export is not None else "entry"
            raise Problem("entry_invalid", "; ".join(wrong), field)
        return self.functions[export].params if export is not None else ()

    def check_handler(self, export: str | None, unknown: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Whether a service can call the module: at `export`, or as a WASI command (`wagi`) where that is None.

        Returns:
            The types of the export's parameters and results; nothing of a command, which has none.

        Raises:
            Problem: import_unknown, entry_invalid.
        """
        self._check_imports(unknown)
        if export is None and "_start" not in self.functions:
            detail = "a wagi handler is a WASI command, and the module exports no function '_start'"
            raise Problem("entry_invalid", detail, "handler.abi")
        wrong = check_entry(self.module, export)
        if wrong:
            raise Problem("entry_invalid", "; ".join(wrong), "handler.abi" if export is None else "handler.export")
        found = self.functions[export or "_start"]
        return found.params, found.results

    def _check_imports(self, unknown: str) -> None:
        lacking = self.unstubbable if unknown == "stub" else self.lacking
        if lacking:
            raise _import_unknown(lacking, unknown)


class Admission:
    """
    Args:
        find: reads a module's row; None where it isn't here.
    """

    def __init__(self, find: Callable[[str], Module | None]) -> None:
        self._find = find
        self._kept: OrderedDict[str, Facts] = OrderedDict()

    def facts(self, digest: str) -> Facts | None:
        """What is known of a module, or None where it isn't here."""
        facts = self._kept.get(digest)
        if facts is not None:
            self._kept.move_to_end(digest)
            return facts
        module = self._find(digest)
        if module is None:
            return None
        facts = self._kept[digest] = Facts.of(module)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return facts

    def forget(self, digest: str) -> None:
        """The module was deleted."""
        self._kept.pop(digest, None)


def _can_stub(wanted: Extern) -> bool:
    """As `runner.stubs`: functions alone, not one of WASI's by another signature, no reference that is never null."""
    if wanted.kind != "func" or (wanted.module == WASI_MODULE and wanted.name in WASI_FUNCTIONS):
        return False
    return not any(name.startswith("(ref ") and not name.startswith("(ref null") for name in wanted.results)


def _import_unknown(lacking: tuple[Extern, ...], unknown: str) -> Problem:
    named = ", ".join(f"{wanted.module}.{wanted.name} ({_kind(wanted)})" for wanted in lacking[:_MAX_NAMED])
    more = f" and {len(lacking) - _MAX_NAMED} more" if len(lacking) > _MAX_NAMED else ""
    right = (
        "these can't be stubbed"
        if unknown == "stub"
        else f"there is {WASI_MODULE}; functions can be stubbed with `unknown_imports: stub`"
    )
    return Problem("import_unknown", f"the module imports what is not here: {named}{more}; {right}", "unknown_imports")


def _kind(wanted: Extern) -> str:
    if wanted.kind != "func":
        return wanted.kind
    return f"func {' '.join(wanted.params) or '-'} -> {' '.join(wanted.results) or '-'}"
