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
KNOWN = [form for listed in INSTRUMENTS for form in (listed.native, listed.name) if "/" not in form]
ALL = list(HealthCheck)
EXAMPLES = 20
"""Requests of each kind to each operation."""
TOKEN = "of-the-tests-alone"


@pytest.fixture(scope="module")
def document(databases: Databases) -> Iterator[Any]:
    """The document of a server that nobody else asks: the requests switch tracking on and off."""
    with opened(databases, TICKWICK_ADMIN_TOKEN=TOKEN) as market:
        found = schemathesis.openapi.from_url(market.url + "/schema/openapi.json")
        for hook in ("map_path_parameters", "map_query"):
            found.hook(hook)(_known)
        yield found


def _known(_: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Name an instrument that there is in most requests: what is behind a wrong name is soon seen."""
    text = parameters and parameters.get("symbol")
    if isinstance(text, str) and (number := sum(map(ord, text)) % (len(KNOWN) + 4)) < len(KNOWN):
        return {**parameters, "symbol": KNOWN[number]}
    return parameters


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
