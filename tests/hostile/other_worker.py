"""The launcher of a worker whose coordinator is another program than the product's; all else is `python -m worker`.

The product has no switch for this: a program that calls `launch` puts the other one into it.
"""

from __future__ import annotations


def launch(coordinator: tuple[str, ...], argv: list[str]) -> int:
    """Run one command of the worker's.

    Args:
        coordinator: the module that is started with `worker.coordinator` as its last argument, and what comes between.
        argv: as `worker.cli.main` takes it.
    """
    from worker import cli, launcher

    original = launcher.python

    def python(module: str, *arguments: str) -> tuple[str, ...]:
        return original(*coordinator, module) if module == "worker.coordinator" else original(module, *arguments)

    launcher.python = python
    return cli.main(argv)
