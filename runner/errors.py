"""Every error that the runner package raises. Operands are attributes; messages say what would be right."""

from __future__ import annotations

import os


class RunnerError(Exception):
    """Root of the package's errors: a failure of the host side, never a guest's outcome."""


class ProtocolError(RunnerError):
    """A peer broke the wire format: garbage, oversized, out of order or cut short."""


class EngineError(RunnerError):
    """wasmtime refused: `step` names what was tried, `message` is wasmtime's own text, capped."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.message = message


class EngineVersionError(RunnerError):
    """The installed wasmtime library isn't one that the binding was written and tested for."""


class SealError(RunnerError):
    """A layer of the seal could not be applied: `step` is its name, `errno` the kernel's answer."""

    def __init__(self, step: str, errno: int) -> None:
        super().__init__(f"seal step {step!r} failed: {os.strerror(errno)} (errno {errno})")
        self.step = step
        self.errno = errno


class ModuleRefused(RunnerError):
    """Static admission refused a module. `code` is the contract's problem code (CONTRACT, Codes)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
