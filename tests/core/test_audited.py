"""What the audit asks of the core: what isn't settled yet, and which blobs are on their way."""

from __future__ import annotations

from tests.core.core_builders import DIGEST, Driver, add, make_module
from worker.core.changes import DropModule, InsertModule, InsertTask
from worker.core.commands import AddModule, DeleteModule


def test_a_task_is_unsettled_from_its_change_until_the_disk_has_its_last_word() -> None:
    driver = Driver()
    driver.schedule("t1")
    driver.holding = True
    assert set() == driver.node.ledger.unsettled()
    driver.begin(driver.node.tasks.live["t1"].runner_id or 0)
    assert {"t1"} == driver.node.ledger.unsettled()
    driver.release()
    assert set() == driver.node.ledger.unsettled()


def test_changes_are_told_while_they_are_under_way() -> None:
    driver = Driver()
    driver.holding = True
    driver.command(add("t1", stdin_name="blob"))
    (change,) = driver.node.ledger.changes()
    assert isinstance(change, InsertTask)
    assert "blob" == change.stdin_name
    driver.release()
    assert [] == driver.node.ledger.changes()


def test_a_module_that_waits_for_its_predecessors_removal_has_its_blob_named() -> None:
    driver = Driver(modules=(DIGEST,))
    driver.holding = True
    driver.command(DeleteModule(DIGEST))
    driver.command(AddModule(make_module(), "blob"))
    assert ([DropModule(DIGEST)], {"blob"}) == (driver.node.ledger.changes(), driver.node.module_blobs())
    driver.holding = False
    held, driver.held = driver.held, []
    driver.holding = True
    driver.commit(held[0])
    driver.settle()
    (change,) = driver.node.ledger.changes()
    assert (True, set()) == (isinstance(change, InsertModule), driver.node.module_blobs())
