"""What a call of a service with mounts runs in: as `runner.callee`, under the engine's own WASI.

Its WASI writes to descriptors 1 and 2 at any length. They are files in memory, made before the seal, cut to nothing
after each call and read by pread, never mapped. A call that wrote more than it may to either is interrupted by the
ticker, or told at its end: `output_limit`. What it wrote to stderr goes on to the service's log, as far as there is
room.
"""

from __future__ import annotations

import os

from runner import wasi_files
from runner.asker import STDERR_FD
from runner.callee import Callee
from runner.syscalls import append_always
from runner.traps import Ending, over_output

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable

    from runner.callee import Answered, Functions
    from runner.linking import Prepared
    from runner.protocol.control import Serve

_OUTPUTS = (1, 2)


class FilesCallee(Callee):
    """The function of one service with mounts. Made before the seal, which forbids to make the two files."""

    BODY_COPIES = 3  # the request, its body as bytes, and the engine's stdin

    __slots__ = ()

    def __init__(self, functions: Functions, module: Prepared, serve: Serve, stopped: Callable[[], bool]) -> None:
        """As Callee.

        Raises:
            EngineError: with step `link`.
        """
        super().__init__(functions, module, serve, stopped)
        self._pre.value = module.with_files()
        for target in _OUTPUTS:
            made = os.memfd_create("output")
            os.dup2(made, target, inheritable=False)
            os.close(made)
            append_always(target)  # so that it goes on at the start after a cut

    def is_over(self) -> bool:
        """Whether the call has written more than it may."""
        return wasi_files.outputs_over(_OUTPUTS, self._serve.output_bytes)

    def settle(self) -> None:
        """As Callee's."""
        super().settle()
        _clear()

    def try_instance(self, fuel: int, ticks: int) -> Ending | None:
        """As Callee's."""
        ending = super().try_instance(fuel, ticks)
        if self.is_over():
            ending = over_output(self._serve.output_bytes)
        self._log()
        _clear()
        return ending

    def _judged(self, answer: Answered) -> Answered:
        self._log()
        return over_output(self._serve.output_bytes) if self.is_over() else answer

    def _set_up(self, variables: bytes, body: bytes | memoryview) -> Ending | None:
        super()._set_up(variables, b"")
        serve = self._serve
        env = [*serve.env, *[_utf8(variable) for variable in variables.split(b"\0")[:-1]]]
        refused = wasi_files.configure(self._context.value or 0, serve.args, env, serve.preopens, bytes(body))
        return Ending("init_failed", refused) if refused else None

    def _output(self) -> bytes:
        return _read(1, self._serve.output_bytes)

    def _log(self) -> None:
        try:
            room = self._serve.output_bytes - os.fstat(STDERR_FD).st_size
            if room > 0 and (written := _read(2, room)):
                os.write(STDERR_FD, written)
        except OSError:
            return  # a function does not fail for its log


def _clear() -> None:
    for fd in _OUTPUTS:
        os.ftruncate(fd, 0)


def _read(fd: int, most: int) -> bytes:
    size = min(os.fstat(fd).st_size, most)
    return os.pread(fd, size, 0) if size else b""


def _utf8(variable: bytes) -> bytes:
    """A header may hold any byte, and the engine's WASI takes UTF-8 alone."""
    try:
        variable.decode()
    except UnicodeDecodeError:
        return variable.decode("latin-1").encode()
    return variable
