"""`tickwick doctor` as a process: exit codes, the table, JSON, and mistakes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.market.model import Tick
from ingest.simulator.exchange import Exchange
from tests.databases import Database
from tests.end_to_end.commands import tickwick
from tests.integration.ticks import add_instrument, run_policies, series, settle, store, stored

START = datetime(2024, 3, 15, 12, tzinfo=UTC)
RANGE = ("--from", "2024-03-15T11:00:00Z", "--to", "2024-03-16")


async def fill(database: Database) -> None:
    instrument = await add_instrument(database)
    await store(database, series(instrument, 100, START, step=7), quiet=True)
    await settle(database)
    run_policies(database)
    database.execute("UPDATE ops.storage SET compress_after = NULL")  # these ticks are old
    database.execute("SELECT market.apply_storage()")


def doctor(database: Database, *arguments: str) -> tuple[int, Any]:
    result = tickwick("doctor", "--dsn", database.writer, "--json", *RANGE, *arguments)
    assert result.returncode in (0, 1), result.stderr
    return result.returncode, json.loads(result.stdout)


async def test_doctor_tells_health_damage_and_repair_by_exit_code_and_json(database: Database) -> None:
    await fill(database)
    code, report = doctor(database)
    assert (code, report["state"], report["repairs"]) == (0, "ok", []), report
    assert {*report} == {"state", "from", "to", "engine", "role", "findings", "repairs"}
    assert (report["engine"], report["role"]) == (database.engine, "tickwick_writer")
    assert (report["from"], report["to"]) == ("2024-03-15T11:00:00Z", "2024-03-16T00:00:00Z")
    assert {tuple(finding) for finding in report["findings"]} == {("check", "subject", "state", "detail", "remedy")}

    database.execute("DELETE FROM market.ticks WHERE trade_id = 50")
    code, report = doctor(database)
    assert (code, report["state"]) == (1, "wrong")
    assert {f["check"] for f in report["findings"] if f["state"] == "wrong"} == {"ids", "candles"}

    code, report = doctor(database, "sim:btcusdt", "--repair")
    assert code == 1
    done = {r["check"]: (r["subject"], r["done"]) for r in report["repairs"]}
    assert done["ids"] == ("SIM:BTCUSDT", True)
    assert done["gaps"] == ("SIM:BTCUSDT", False), "no exchange is there to be asked"
    assert "gaps" in {f["check"] for f in report["findings"] if f["state"] == "wrong"}

    code, report = doctor(database, "--to", "2024-03-15T11:30:00Z")  # before the damage, but not for candles of the day
    assert {f["check"] for f in report["findings"] if f["state"] == "wrong"} == {"candles"}


async def test_doctor_prints_a_table_for_people(any_database: Database) -> None:
    await fill(any_database)
    any_database.execute("DELETE FROM market.ticks WHERE trade_id = 50")
    result = tickwick("doctor", "--dsn", any_database.writer, *RANGE, "--repair", COLUMNS="160")
    assert result.returncode == 1
    assert result.stderr == ""
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in result.stdout.splitlines() if "│" in line]
    assert ["ids", "SIM:BTCUSDT", "ok"] in cells
    assert ["gaps", "SIM:BTCUSDT", "wrong"] in cells
    assert "mended ids of SIM:BTCUSDT: 1 gap opened" in result.stdout
    assert "2 wrong, 0 unknown, from 2024-03-15 11:00:00Z to 2024-03-16 00:00:00Z" in result.stdout


async def test_doctor_fetches_what_is_missing_from_the_exchange(database: Database) -> None:
    exchange = Exchange(["BTCUSDT"], rate=10)
    instrument = await add_instrument(database)
    end = exchange.next_id("BTCUSDT")
    trades = exchange.tape("BTCUSDT").trades(end - 300, 300)
    ticks = [Tick(instrument.id, t.id, t.time_us, Decimal(t.price), Decimal(t.size), t.buyer_is_maker) for t in trades]
    await store(database, [*ticks[:100], *ticks[120:]], quiet=True)
    await settle(database)
    run_policies(database)
    async with exchange.serve() as venue:
        flags = ("--source", "simulator", "--url", venue.ws, "--repair", "--json")
        result = await asyncio.to_thread(tickwick, "doctor", "--dsn", database.writer, *flags)
    report = json.loads(result.stdout)
    assert result.returncode == 0, [finding for finding in report["findings"] if finding["state"] != "ok"]
    said = {repair["check"]: repair["detail"] for repair in report["repairs"]}
    assert said["ids"] == "1 gap opened: to be fetched"
    assert said["gaps"] == "20 ticks fetched, 0 do not exist, 0 still missing"
    assert stored(database, instrument) == ticks


async def test_doctor_looks_at_the_last_24_hours_of_now(any_database: Database) -> None:
    result = tickwick("doctor", "--json", TICKWICK_DSN=any_database.writer)
    assert result.returncode == 0, result.stdout
    report = json.loads(result.stdout)
    start, end = (datetime.fromisoformat(report[edge]) for edge in ("from", "to"))
    assert end - start == timedelta(days=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "yesterday"], "--from"),
        (["--to", "2024-01-01T00:00:00"], "offset"),
        (["--from", "2024-01-02", "--to", "2024-01-02"], "--to"),
        (["NOWHERE:NOTHING"], "NOWHERE:NOTHING"),
        (["--nonsense"], "--nonsense"),
        (["--dsn", "host=127.0.0.1 port=1"], "port 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_gets_one_sentence_and_exit_code_2(any_database: Database, arguments: list[str], told: str) -> None:
    result = tickwick("doctor", *arguments, TICKWICK_DSN=any_database.writer)
    assert result.returncode == 2, result
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("tickwick: ")
    assert told in sentence


@pytest.mark.parametrize(("role", "told"), [("reader", "connect as a role that may"), ("empty", "tickwick migrate")])
def test_doctor_that_may_not_look_says_so(any_database: Database, empty_database: str, role: str, told: str) -> None:
    result = tickwick("doctor", "--dsn", empty_database if role == "empty" else any_database.reader)
    assert result.returncode == 2
    assert told in result.stderr


def test_help_names_every_flags_variable_and_the_form_of_json() -> None:
    text = tickwick("doctor", "--help", COLUMNS="120").stdout
    for name in ("DSN", "FROM", "TO", "JSON", "REPAIR"):
        assert f"TICKWICK_{name}" in text
    assert "check, subject, state, detail, remedy" in " ".join(text.split())
