"""What the tests of REST begin with."""

from collections.abc import AsyncIterator

import pytest

from app.market.model import Instrument
from tests.databases import Database
from tests.integration.rest import Rest, serving
from tests.integration.ticks import add_instrument


@pytest.fixture
async def instrument(any_database: Database) -> Instrument:
    return await add_instrument(any_database)


@pytest.fixture
async def rest(any_database: Database, instrument: Instrument) -> AsyncIterator[Rest]:
    """A server whose one instrument has no ticks yet."""
    async with serving(any_database) as served:
        yield served
