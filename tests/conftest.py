"""What every room's tests share: the stores they run on are put away after each of them."""

from collections.abc import Iterator

import pytest

from tests.stores import drop_all, put_away


@pytest.fixture(autouse=True, scope="session")
def all_stores() -> Iterator[None]:
    yield
    drop_all()


@pytest.fixture(autouse=True)
def stores_of_one_test(all_stores: None) -> Iterator[None]:
    """Begins before the test's other fixtures and ends behind them; what a module's fixtures use stays."""
    with put_away():
        yield
