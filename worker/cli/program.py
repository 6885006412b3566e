"""The program: its commands by name, each loaded when it is asked for, and what an error ends it with.

`serve` runs on every node and needs nothing of the extra `client`; so a command's module imports click and what it
stands on, and whatever comes from that extra only once the command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from runner.errors import RunnerError
from worker.cli.show import harmless
from worker.errors import CommandExit, ExitCode, WorkerError
from worker.version import DISTRIBUTION, version_of

PROGRAM = "galago-worker"

# Name to module; the command there has the module's name. The order is the help's.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "A worker": ("serve", "doctor", "repair", "run", "bench", "version", "completion"),
    "Functions, on a worker that runs": ("deploy", "call", "switch", "functions"),
    "Tasks and the node, on a worker that runs": ("tasks", "task", "logs", "stop", "modules", "stats", "top"),
}
COMMANDS = tuple(name for names in _SECTIONS.values() for name in names)


class Program(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"worker.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section, names in _SECTIONS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None
                rows.append((f"{name:<{width}}", command.get_short_help_str(formatter.width)))
            with formatter.section(section):
                formatter.write_dl(rows)


def _say_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{DISTRIBUTION} {version_of()}")
        ctx.exit()


_VERSION = click.Option(
    ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help="As the command."
)
group = Program(
    PROGRAM,
    params=[_VERSION],
    help="A node of Galago: runs tasks and functions as sealed Wasm processes.",
    epilog="Which worker: --url or GALAGO_URL. Its token: --token-file or GALAGO_TOKEN.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments, without the program's name; the process's own by default.

    Returns:
        An ExitCode or CommandExit, or what a command gives by itself (`run`: the guest's). What is wrong with the
        command line is USAGE.
    """
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        code = group.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        return CommandExit.INTERRUPTED
    except WorkerError as exc:
        return _complain(exc, exc.exit_code)
    except RunnerError as exc:
        return _complain(exc, ExitCode.INTERNAL)
    return code if isinstance(code, int) else ExitCode.OK


def _complain(exc: Exception, code: int) -> int:
    click.echo(f"{PROGRAM}: {harmless(str(exc))}", err=True)
    return code
