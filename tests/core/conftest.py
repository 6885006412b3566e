"""The node that most tests of the core begin with."""

from __future__ import annotations

import pytest

from tests.core.core_builders import Driver


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def slow() -> Driver:
    """A node whose disk answers when the test says so."""
    driver = Driver()
    driver.holding = True
    return driver
