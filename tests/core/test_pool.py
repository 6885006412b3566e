"""The pool: slots, the runners in them, and who may share one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.core_builders import DIGEST, make_spec, make_task, warm_spec
from worker.core.pool import Pool, Runner, RunnerState, instance_key
from worker.core.task import Isolation, Limits, Mount, Task


def warm(**fields: object) -> Task:
    return make_task(isolation=Isolation.INSTANCE, **fields)


def rested(pool: Pool, key: object) -> Runner:
    runner = pool.start(key, "t", 1)
    assert runner is not None
    pool.rest(runner)
    return runner


def test_each_runner_has_a_slot_of_its_own_until_there_is_none() -> None:
    pool = Pool(2)
    first, second = pool.start(None, "t1", 1), pool.start(None, "t2", 2)
    assert first is not None
    assert second is not None
    assert {0, 1} == {first.slot, second.slot}
    assert (None, 0) == (pool.start(None, "t3", 3), pool.free)


def test_a_slot_comes_back_when_its_runner_was_reaped() -> None:
    pool = Pool(1)
    runner = pool.start(None, "t1", 1)
    assert runner is not None
    pool.end(runner)
    assert (0, True) == (pool.free, pool.ending)
    assert runner is pool.release(runner.id)
    assert (1, False, {}) == (pool.free, pool.ending, pool.runners)


def test_a_runner_can_not_be_released_twice() -> None:
    pool = Pool(1)
    runner = pool.start(None, "t1", 1)
    assert runner is not None
    pool.release(runner.id)
    with pytest.raises(KeyError):
        pool.release(runner.id)
    assert 1 == pool.free


def test_the_slot_that_rested_longest_is_next() -> None:
    pool = Pool(3)
    for _ in range(2):
        runner = pool.start(None, "t", 1)
        assert runner is not None
        pool.release(runner.id)
    runner = pool.start(None, "t", 1)
    assert runner is not None
    assert 2 == runner.slot


def test_a_resting_runner_takes_the_next_job_of_its_key_alone() -> None:
    pool = Pool(2)
    runner = rested(pool, "key")
    assert None is pool.take_idle("another", "t2", 2)
    assert runner is pool.take_idle("key", "t2", 2)
    assert (RunnerState.BUSY, "t2", 2) == (runner.state, runner.task_id, runner.job_id)
    assert None is pool.take_idle("key", "t3", 3)


def test_the_runner_that_rested_last_is_taken_first() -> None:
    pool = Pool(2)
    first, second = pool.start("key", "t1", 1), pool.start("key", "t2", 2)
    assert first is not None
    assert second is not None
    pool.rest(second)
    pool.rest(first)
    assert [first, second] == [pool.take_idle("key", "t3", 3), pool.take_idle("key", "t4", 4)]


def test_the_runner_that_rests_longest_is_given_up_first() -> None:
    pool = Pool(3)
    first, second, third = (pool.start(key, "t", 1) for key in ("a", "b", "b"))
    assert first is not None
    assert second is not None
    assert third is not None
    assert None is pool.longest_idle()
    for runner in (third, first, second):
        pool.rest(runner)
    assert third is pool.longest_idle()
    pool.end(third)
    assert first is pool.longest_idle()


def test_a_runner_that_ends_is_given_no_more_jobs() -> None:
    pool = Pool(1)
    pool.end(rested(pool, "key"))
    assert (None, None) == (pool.take_idle("key", "t2", 2), pool.longest_idle())


def test_a_runner_that_died_while_it_rested_is_given_no_more_jobs() -> None:
    pool = Pool(2)
    dead, alive = pool.start("key", "t1", 1), pool.start("key", "t2", 2)
    assert dead is not None
    assert alive is not None
    pool.rest(alive)
    pool.rest(dead)
    pool.release(dead.id)
    assert [alive, None] == [pool.take_idle("key", "t3", 3), pool.take_idle("key", "t4", 4)]


def test_a_job_of_process_isolation_shares_with_nobody() -> None:
    assert None is instance_key(make_task())


def test_a_job_with_mounts_shares_with_nobody() -> None:
    assert None is instance_key(warm(mounts=(Mount("corpus", "/data"),)))


def test_jobs_that_differ_only_in_what_they_are_given_share_a_runner() -> None:
    assert instance_key(warm(args=("a",), stdin_bytes=3, priority=4)) == instance_key(warm(labels=(("a", "b"),)))


@pytest.mark.parametrize(
    "other",
    [
        replace(make_task(), token="another", spec=warm_spec()),
        make_task(isolation=Isolation.INSTANCE, digest="sha256:" + "c" * 64),
        warm(limits=Limits(fuel=1)),
        warm(env=(("A", "b"),)),
        warm(unknown_imports="stub"),
    ],
)
def test_jobs_of_another_module_token_limit_env_or_imports_do_not(other: Task) -> None:
    assert DIGEST == make_spec().digest
    assert instance_key(warm()) != instance_key(other)
