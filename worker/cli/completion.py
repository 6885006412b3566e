"""`galago-worker completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from worker.cli.program import PROGRAM, group


@click.command(short_help="Print completion for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete this program's commands and options.

    \b
    bash: eval "$(galago-worker completion bash)"     in ~/.bashrc
    zsh:  eval "$(galago-worker completion zsh)"      in ~/.zshrc
    fish: galago-worker completion fish | source      in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    variable = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
    click.echo(found(group, {}, PROGRAM, variable).source())
