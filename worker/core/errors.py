"""Errors of the pure core: each means a bug of the caller, since no outside input can raise one."""

from __future__ import annotations


class CoreError(Exception):
    """Root of the core's errors."""


class IllegalTransition(CoreError):
    """An event came in a state where it can't happen. Nothing was changed."""

    def __init__(self, state: str, event: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{event} can't happen to a {state} task; it can in: {', '.join(allowed) or 'no state'}")
        self.state = state
        self.event = event
        self.allowed = allowed


class IllegalReason(CoreError):
    """A task can't end from this state with this reason."""

    def __init__(self, state: str, reason: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"a {state} task can't end with {reason}; it can with: {', '.join(allowed)}")
        self.state = state
        self.reason = reason
        self.allowed = allowed
