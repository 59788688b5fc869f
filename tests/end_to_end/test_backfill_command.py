"""`tickwick backfill` as a process, against a simulated exchange: range, table, exit codes, Ctrl-C."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from app.market.model import InstrumentId, to_micros
from ingest.simulator.exchange import Exchange
from ingest.simulator.misbehaviour import Misbehaviour
from ingest.simulator.tape import history
from tests.databases import Database
from tests.end_to_end.commands import tickwick

RATE = 20.0
START = datetime(2024, 3, 15, 12, tzinfo=UTC)


@pytest.fixture
async def exchange() -> AsyncIterator[tuple[Exchange, str]]:
    made = Exchange(["BTCUSDT"], RATE, seed=7)
    async with made.serve() as address:
        yield made, address.http


async def backfill(database: Database, rest_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("--dsn", database.writer, "--source", "simulator", "--rest-url", rest_url)
    return await asyncio.to_thread(tickwick, "backfill", *options, *arguments, COLUMNS="120")


def stored(database: Database) -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT trade_id, (extract(epoch FROM time) * 1000000)::bigint, price, size FROM market.ticks ORDER BY trade_id"
    )


def cells(output: str) -> list[str]:
    return [cell.strip() for cell in output.splitlines()[3].split("│")][1:6]


async def test_backfill_stores_the_trades_between_two_times_and_only_once(
    database: Database, exchange: tuple[Exchange, str]
) -> None:
    made, rest_url = exchange
    end = START + timedelta(minutes=5)
    tape = made.tape("BTCUSDT")
    first, beyond = tape.id_at(to_micros(START)), tape.id_at(to_micros(end))
    truth = [(t.trade_id, t.time_us, t.price, t.size) for t in history(tape, InstrumentId(1), first, beyond)]
    times = ("--from", "2024-03-15T12:00:00Z", "--to", str(to_micros(end) // 1000))
    result = await backfill(database, rest_url, "SIM:BTCUSDT", *times)
    assert result.returncode == 0, result.stderr
    assert cells(result.stdout) == ["SIM:BTCUSDT", f"{len(truth):,}", "0", "0", "0"]
    assert stored(database) == truth
    again = await backfill(database, rest_url, "sim:btcusdt", *times)
    assert again.returncode == 0, again.stderr
    assert cells(again.stdout) == ["SIM:BTCUSDT", "0", f"{len(truth):,}", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (["SIM:NOSUCH", "--from", "2024-03-15"], "Invalid symbol"),
        (["BTCUSDT", "--from", "2024-03-15"], "is not SOURCE:TICKER"),
        (["NOWHERE:BTCUSDT", "--from", "2024-03-15"], "is not a venue whose past trades can be had"),
        (["SIM:BTCUSDT", "--from", "2024-03-15", "--to", "2024-03-14"], "--from is not before --to"),
        (["SIM:BTCUSDT", "--from", "2124-03-15"], "--from is not in the past"),
        (["SIM:BTCUSDT", "--from", "yesterday"], "is not a time"),
        (["SIM:BTCUSDT", "--from", "2024-03-15T12:00:00"], "has no offset"),
        (["SIM:BTCUSDT"], "Missing option '--from'"),
    ],
)
async def test_mistake_is_one_sentence_and_exit_code_two(
    any_database: Database, exchange: tuple[Exchange, str], arguments: list[str], mistake: str
) -> None:
    result = await backfill(any_database, exchange[1], *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("tickwick: ")
    assert mistake in line
    assert any_database.execute("SELECT 1 FROM market.instruments") == []


async def test_backfill_that_is_stopped_says_so_and_keeps_its_pages(
    any_database: Database, exchange: tuple[Exchange, str]
) -> None:
    made, rest_url = exchange
    made.misbehave(Misbehaviour(weight_limit=25 * 4))  # then it waits for the next minute
    options = ("--dsn", any_database.writer, "--source", "simulator", "--rest-url", rest_url)
    times = ("--from", "2024-03-15", "--to", "2024-03-16")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "backfill", *options, "SIM:BTCUSDT", *times),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            while not any_database.execute("SELECT 1 FROM market.ticks LIMIT 1"):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, shown = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    assert "stopped: what was fetched is stored" in shown.decode()
    assert any_database.execute("SELECT state FROM market.gaps") == [("open",)]
