"""The command `galago-worker`: thin, everything it does is a call of something else."""

from worker.cli.program import main

__all__ = ["main"]
