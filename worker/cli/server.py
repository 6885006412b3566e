"""Which worker a command speaks to, as whom, and what is said when that fails."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.errors import CommandExit, NotInstalled, WorkerError

if TYPE_CHECKING:
    from worker.client import Client, ClientError

Command = TypeVar("Command", bound=Callable[..., Any])
_MAX_TOKEN_BYTES = 4096
# A line of `serve --token-file`, which has hashes of tokens and no token.
_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}\b")
_GUEST_ENDED_BADLY = frozenset(
    {
        *("guest_trap", "guest_oom", "guest_output_limit", "guest_bad_response", "guest_exit", "init_failed"),
        *("fuel", "deadline", "killed_deadline"),
    }
)


class CommandFailed(WorkerError):
    """A client's command did not do what it was to do; `exit_code` is what it ends with."""

    def __init__(self, message: str, exit_code: CommandExit) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def server_options(command: Command) -> Command:
    """The options `--url` and `--token-file`, for `connected`."""
    click.option(
        "--url", envvar="GALAGO_URL", show_envvar=True, metavar="URL", help="the worker; default http://127.0.0.1:8470"
    )(command)
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="file that holds the token itself; else it is read from GALAGO_TOKEN",
    )(command)
    return command


@contextmanager
def connected(
    url: str | None, token_file: Path | None, timeout_s: float | None = None, attempts: int | None = None
) -> Iterator[Client]:
    """A client, and its errors in words that say what to do.

    Raises:
        NotInstalled: without the extra `client`.
        CommandFailed: whatever went wrong with the worker within the block.
    """
    client = import_client()
    token = read_token(token_file) if token_file is not None else os.environ.get("GALAGO_TOKEN") or None
    try:
        more: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}
        if attempts is not None:
            more["retry"] = client.Retry(attempts)
        with client.Client(url or client.DEFAULT_URL, token=token, **more) as worker:
            yield worker
    except client.ClientError as exc:
        raise explained(exc) from exc


def import_client() -> Any:
    """The package `worker.client`, where the whole of the extra is there. Raises: NotInstalled."""
    try:
        import rich  # noqa: F401 - what `worker.cli.show` is made of

        from worker import client
    except ModuleNotFoundError as exc:
        raise NotInstalled(f"this command needs {exc.name}: pip install 'galago-worker[client]'") from exc
    return client


def read_token(path: Path) -> str:
    """The token in a file, whose first line it is.

    Raises:
        CommandFailed: there is none; or somebody else may read it.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077 and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CommandFailed(f"{path} can be read by others: chmod 600 {path}", CommandExit.NO_INPUT)
            text = file.read(_MAX_TOKEN_BYTES).decode("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandFailed(f"{path} gives no token: {exc}", CommandExit.NO_INPUT) from exc
    token = text.strip()
    if _HASH.match(token):
        why = "has hashes, as `serve --token-file` takes them; name a file with the token itself"
        raise CommandFailed(f"{path} {why}", CommandExit.NO_INPUT)
    if not re.fullmatch(r"[!-~]+", token):
        raise CommandFailed(f"{path} must hold one token and nothing else", CommandExit.NO_INPUT)
    return token


def explained(error: ClientError) -> CommandFailed:
    """What happened, what to do, and the exit code."""
    client = import_client()
    match error:
        case client.Refused():
            code, advice = _of_refusal(error)
        case client.Unreachable():
            code = CommandExit.UNREACHABLE
            advice = (
                "is a worker serving there? `galago-worker serve --data-dir DIR` starts one; "
                "--url or GALAGO_URL name another"
            )
        case client.BadUrl():
            code, advice = CommandExit.USAGE, "see --url and GALAGO_URL"
        case client.StillGoing():
            code, advice = CommandExit.FAILED, f"`galago-worker task {error.task_id} --follow` waits on"
        case client.NotAWorker():
            code, advice = CommandExit.WORKER_FAILED, "see --url and GALAGO_URL"
        case _:
            code, advice = CommandExit.WORKER_FAILED, _MAYBE
    return CommandFailed(f"{error}" + (f"\n  {advice}" if advice else ""), code)


_MAYBE = "it may have been done all the same: look before you do it again (`galago-worker tasks`, `functions`)"


def _of_refusal(error: Any) -> tuple[CommandExit, str]:
    """(exit code, advice) for a problem document."""
    if error.status == 401:
        return CommandExit.NOT_ALLOWED, "give a token that the worker knows: --token-file FILE, or GALAGO_TOKEN"
    if error.status == 403:
        return CommandExit.NOT_ALLOWED, "scopes of tokens stand in the worker's own --token-file"
    if error.code in _GUEST_ENDED_BADLY:
        return CommandExit.FAILED, ""
    if error.executed != "no":
        return CommandExit.WORKER_FAILED, _MAYBE
    if error.retry_after_s is not None or error.status == 425:
        return CommandExit.TRY_LATER, "nothing was executed; try again later"
    return CommandExit.REFUSED, _ADVICE.get(error.code, "")


_ADVICE = {
    "task_unknown": "`galago-worker tasks` lists them",
    "module_unknown": "`galago-worker modules` lists them",
    "function_unknown": "`galago-worker functions` lists them",
    "revision_unknown": "`galago-worker functions` lists them",
    "no_default_revision": "`galago-worker switch FUNCTION REVISION` makes one the default",
    "revision_exists": "choose another --revision, or stop the task of that one (`galago-worker functions`)",
    "revision_not_running": "`galago-worker functions` says how it is",
    "module_text": "assemble it first, as with `wat2wasm`",
    "module_component": "this worker runs core modules: `wasm-tools component unbundle` may give one",
    "entry_invalid": "an export that is called itself is named by --export",
    "import_unknown": "--stub-imports makes it do without",
}
