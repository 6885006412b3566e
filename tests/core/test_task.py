"""Tasks are values: frozen, with the defaults of the contract."""

from __future__ import annotations

import dataclasses

import pytest

from runner.protocol import LAYERS, VALUE_NAMES
from runner.protocol.status import REASONS
from tests.core.core_builders import make_task, task_in
from worker.core.task import Isolation, Limits, Reason, State


def test_the_defaults_are_the_contracts() -> None:
    spec = make_task().spec
    assert Limits(10**9, 64 * 1024**2, 10_000, 1024**2) == spec.limits
    assert ((), (), 0, None, (), Isolation.PROCESS, "deny", 0, 0) == (
        spec.args,
        spec.env,
        spec.stdin_bytes,
        spec.queue_ms,
        spec.mounts,
        spec.isolation,
        spec.unknown_imports,
        spec.retry_max,
        spec.priority,
    )


@pytest.mark.parametrize("state", list(State))
def test_a_task_is_final_when_it_completed_or_failed(state: State) -> None:
    assert (state in (State.COMPLETED, State.FAILED)) == task_in(state).final


def test_a_task_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_task().token = "another"  # type: ignore[misc]


def test_every_reason_of_a_runner_is_one_of_a_task() -> None:
    assert set(REASONS) <= {reason.value for reason in Reason}


def test_layers_and_values_are_named_once() -> None:
    assert (len(LAYERS), len(VALUE_NAMES)) == (len(set(LAYERS)), len(set(VALUE_NAMES)))
