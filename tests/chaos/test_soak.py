"""The soak, for a little while; and that a seed says what it brings."""

import re
from itertools import islice
from pathlib import Path

from sql.engine import Engine
from tests.chaos.repertoire import FAULTS, planned
from tests.chaos.soak import soak, table
from tests.chaos.system import Measured
from tests.databases import Databases

SEED = 7
SECONDS = 25


def test_same_seed_brings_the_same_faults_each_once_before_any_again() -> None:
    first = [str(fault) for fault in islice(planned(SEED), 3 * len(FAULTS))]
    assert first == [str(fault) for fault in islice(planned(SEED), 3 * len(FAULTS))]
    assert first != [str(fault) for fault in islice(planned(SEED + 1), 3 * len(FAULTS))]
    assert sorted(fault.name for fault in islice(planned(SEED), len(FAULTS))) == sorted(FAULTS)


def test_table_tells_of_each_fault_how_often_and_how_slowly_it_was_recovered_from() -> None:
    lines = table(Measured({"this": [0.5, 1.5, 1.0], "that": [6.0]})).splitlines()[1:]
    assert [re.split(r"\s{2,}", line) for line in lines] == [
        ["that", "1", "6.00 s", "6.00 s", "more than 5 s"],
        ["this", "3", "1.00 s", "1.50 s"],
    ]


async def test_soak_for_a_little_while_finds_nothing_wrong(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    found = await soak(databases, best_engine, folder, seed=SEED, seconds=SECONDS)
    assert found.recoveries
    for name, seconds in found.recoveries.items():
        measured.recoveries.setdefault(f"soak: {name}", []).extend(seconds)
