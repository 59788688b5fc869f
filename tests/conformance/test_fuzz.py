"""Requests made up from the OpenAPI document: no 500, and no answer that the document does not tell of."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conformance.market import INSTRUMENTS, opened
from tests.databases import Databases

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
NATIVE = [listed.native for listed in INSTRUMENTS if "/" not in listed.native]
NAMES = [listed.name for listed in INSTRUMENTS]
PLAUSIBLE = {
    "symbols": ['["BTCUSDT","KRAKEN.BTCUSD"]', '["LAMP"]', "BINANCE:BTCUSDT,SHOP:LAMP"],
    "start": ["2026-01-01", "0"],
    "end": ["2100-01-01T00:00:00Z"],
    "at": ["2100-01-01T00:00:00Z"],
    "timezone": ["Europe/Berlin", "+05:30"],
    "startTime": ["0", "1700000000000000"],
    "endTime": ["4102444800000"],
    "timeZone": ["8", "-3:00", "05:45"],
    "windowSize": ["1m", "23h", "7d"],
    "resolution": ["1", "240", "1D"],
    "from": ["0"],
    "to": ["4102444800"],
}
"""What requests are to name at times: what is behind a check of the parameters is reached by few that are made up."""
EXAMPLES = 20
"""Requests of each kind to each operation."""
TOKEN = "of-the-tests-alone"


@pytest.fixture(scope="module")
def document(databases: Databases) -> Iterator[Any]:
    """The document of a server that nobody else asks: the requests switch tracking on and off."""
    with opened(databases, TICKWICK_ADMIN_TOKEN=TOKEN) as market:
        found = schemathesis.openapi.from_url(market.url + "/schema/openapi.json")
        for hook in ("map_path_parameters", "map_query"):
            found.hook(hook)(_plausible)
        yield found


def _plausible(context: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two of three times what there is instead of what was made up."""
    known = {**PLAUSIBLE, "symbol": NAMES if context.operation.path.startswith("/api/v3") else NATIVE}
    replaced = {}
    for name, value in (parameters or {}).items():
        number = sum(map(ord, str(value))) % 3000
        replaced[name] = known[name][number % len(known[name])] if name in known and number % 3 else value
    if len(replaced) % 4 and {"symbol", "symbols"} <= replaced.keys():
        del replaced["symbols"]
    return replaced or parameters


@pytest.mark.parametrize("mode", GenerationMode)
def test_fuzz_any_request_is_answered_as_documented(
    document: Any, mode: GenerationMode, subtests: pytest.Subtests
) -> None:
    for operation in (found.ok() for found in document.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not (operation.path_parameters or operation.query or operation.body):
            continue  # nothing to get wrong

        @settings(
            max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck]
        )
        @given(case=operation.as_strategy(mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {TOKEN}"})

        with subtests.test(operation.label):
            ask()
