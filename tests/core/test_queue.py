"""The queue: by priority, then first come first served; the stopped are passed over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.core.queue import ReadyQueue


def drain(queue: ReadyQueue) -> list[str]:
    order = []
    while (task_id := queue.peek()) is not None:
        order.append(task_id)
        queue.remove(task_id)
    return order


def test_an_empty_queue_has_nobody() -> None:
    assert (None, 0) == (ReadyQueue().peek(), len(ReadyQueue()))


def test_the_highest_priority_is_first_then_who_came_first() -> None:
    queue = ReadyQueue()
    queue.push("late", 0, 3)
    queue.push("early", 0, 1)
    queue.push("urgent", 9, 4)
    assert ["urgent", "early", "late"] == drain(queue)


def test_looking_does_not_take() -> None:
    queue = ReadyQueue()
    queue.push("one", 0, 1)
    assert ("one", "one", 1) == (queue.peek(), queue.peek(), len(queue))


def test_the_removed_are_passed_over() -> None:
    queue = ReadyQueue()
    queue.push("one", 0, 1)
    queue.push("two", 0, 2)
    queue.remove("one")
    queue.remove("never here")
    assert ["two"] == drain(queue)


def test_one_that_comes_back_has_its_old_place() -> None:
    queue = ReadyQueue()
    queue.push("one", 0, 1)
    queue.push("two", 0, 2)
    queue.remove("one")
    queue.push("one", 0, 1)
    assert ["one", "two"] == drain(queue)


def test_the_removed_hold_no_place_behind_a_head_that_can_not_move() -> None:
    queue = ReadyQueue()
    queue.push("head", 9, 0)
    for order in range(10_000):
        queue.push(str(order), 0, order)
        queue.remove(str(order))
    assert len(queue._heap) < 200
    assert ["head"] == drain(queue)


@given(st.dictionaries(st.text(), st.tuples(st.integers(0, 9), st.integers()), max_size=300), st.randoms())
def test_the_order_is_that_of_a_sort(places: dict[str, tuple[int, int]], random: object) -> None:
    queue = ReadyQueue()
    for task_id, (priority, order) in places.items():
        queue.push(task_id, priority, order)
    removed = {task_id for task_id in places if random.random() < 0.5}  # type: ignore[attr-defined]
    for task_id in removed:
        queue.remove(task_id)
    kept = sorted((-priority, order, task_id) for task_id, (priority, order) in places.items())
    assert [task_id for _, _, task_id in kept if task_id not in removed] == drain(queue)
