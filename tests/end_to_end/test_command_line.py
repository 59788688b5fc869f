"""Commands as processes: import on every engine, and mistakes that get one sentence and exit code 2."""

import json
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest

from tests.databases import Database
from tests.end_to_end.commands import free_port, tickwick

HOUR_MS = 1_610_064_000_000  # 2021-01-08T00:00:00Z


def rows(count: int, first_id: int = 1000, unit: int = 1) -> list[str]:
    """Rows of a trades dump, one every 700 ms; `unit` 1000 makes the times microseconds."""
    return [
        f"{first_id + i},{39432 + i % 7}.48000000,0.0{i % 9 + 1}000000,1.0,{(HOUR_MS + i * 700) * unit},"
        f"{'True' if i % 3 else 'False'},True"
        for i in range(count)
    ]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def candles(database: Database, level: str = "1m") -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT time, open, high, low, close, volume, trades, first_id, last_id FROM market.candles"
        " WHERE interval = %s ORDER BY time",
        (level,),
    )


def test_import_twice_stores_once_with_right_candles(database: Database, tmp_path: Path) -> None:
    dump = write(tmp_path / "BTCUSDT-trades-2021-01-08.csv", rows(200))
    for expected in (("200", "0"), ("0", "200")):
        result = tickwick("import", "--dsn", database.writer, str(dump), COLUMNS="120")
        assert result.returncode == 0, result.stderr
        cells = [cell.strip() for cell in result.stdout.splitlines()[3].split("│")]
        assert cells[2:5] == ["BINANCE:BTCUSDT", *expected]
        (first, *_) = candles(database)
        assert first[1:] == (
            Decimal("39432.48"),
            Decimal("39438.48"),
            Decimal("39432.48"),
            Decimal(39432 + 85 % 7) + Decimal("0.48"),
            sum(Decimal(i % 9 + 1) / 100 for i in range(86)),
            86,
            1000,
            1085,
        )
        assert sum(row[6] for row in candles(database, "1d")) == 200  # type: ignore[misc]  # a count
    assert database.execute("SELECT count(*) FROM market.stale_ranges") == [(0,)]


def test_import_microseconds_in_zip_equals_milliseconds_in_csv(any_database: Database, tmp_path: Path) -> None:
    archive = tmp_path / "ETHUSDT-trades-2021-01-08.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("ETHUSDT-trades-2021-01-08.csv", "\n".join(rows(50, unit=1000)))
    dump = write(tmp_path / "BTCUSDT-trades-2021-01-08.csv", rows(50))
    assert tickwick("import", "--dsn", any_database.writer, str(archive), str(dump)).returncode == 0
    per_symbol = any_database.execute(
        "SELECT array_agg((time, open, close, volume, first_id)::text ORDER BY time) FROM market.candles"
        " WHERE interval = '1m' GROUP BY symbol"
    )
    assert len(per_symbol) == 2
    assert per_symbol[0] == per_symbol[1]


def test_import_bad_rows_are_told_and_the_rest_is_stored(database: Database, tmp_path: Path) -> None:
    lines = rows(20)
    lines[3] = lines[3].replace("48000000", "NaN")
    lines[7] = "not a row"
    lines[11] = lines[11].replace("0.0", "-0.0", 1)
    dump = write(tmp_path / "XRPETH-aggTrades-2019-10-11.csv", lines)
    result = tickwick("import", "--dsn", database.writer, "--layout", "trades", str(dump))
    assert result.returncode == 1
    told = [line for line in result.stderr.splitlines() if ".csv:" in line]
    assert [line.split(".csv:")[1].split(": ")[0] for line in told] == ["4", "8", "12"]
    assert "price" in told[0]
    assert "qty" in told[2] or "size" in told[2]
    assert database.execute("SELECT count(*) FROM market.ticks") == [(17,)]
    assert sum(row[6] for row in candles(database)) == 17  # type: ignore[misc]  # a count


def test_import_strict_stops_at_the_first_bad_row_and_leaves_nothing(database: Database, tmp_path: Path) -> None:
    lines = rows(15_000)
    lines[14_000] = "bad"
    dump = write(tmp_path / "BTCUSDT-trades-2021-01-08.csv", lines)
    result = tickwick("import", "--strict", "--dsn", database.writer, str(dump))
    assert result.returncode == 1
    assert ":14001:" in result.stderr
    assert database.execute("SELECT count(*) FROM market.ticks") == [(0,)]
    assert database.execute("SELECT count(*) FROM market.stale_ranges") == [(0,)]
    assert candles(database) == []
    assert database.execute("SELECT count(*) FROM market.instruments") == [(0,)]


def test_import_of_another_kind_of_ids_is_refused(any_database: Database, tmp_path: Path) -> None:
    assert (
        tickwick(
            "import", "--dsn", any_database.writer, str(write(tmp_path / "BTCUSDT-trades-2021-01-08.csv", rows(3)))
        ).returncode
        == 0
    )
    aggregate = write(tmp_path / "BTCUSDT-aggTrades-2021-01-08.csv", [f"1,1.0,1.0,1,1,{HOUR_MS},True,True"])
    result = tickwick("import", "--dsn", any_database.writer, str(aggregate))
    assert result.returncode == 2
    assert "BINANCE:BTCUSDT" in result.stderr
    assert any_database.execute("SELECT count(*) FROM market.ticks") == [(3,)]


def test_migrate_sets_passwords_and_tells_the_engine(empty_database: str) -> None:
    result = tickwick("migrate", "--dsn", empty_database, TICKWICK_READER_PASSWORD="of-this-test")
    assert result.returncode == 0, result.stderr
    assert "engine " in result.stdout
    again = tickwick("migrate", "--dsn", empty_database, "--dry-run")
    assert "0 migrations would be applied" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["migrate", "--dsn", "host=/nowhere/at/all"], "/nowhere/at/all"),
        (["migrate", "--dsn", "no=such=thing"], "DSN"),
        (["migrate", "--engine", "oracle"], "oracle"),
        (["serve", "--dsn", "host=127.0.0.1 port=1"], "port 1"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--port", "many", "--log-level", "loud"], "--log-level"),
        (["ingest", "--dsn", "host=/nowhere/at/all", "--source", "simulator", "--url", "ws://127.0.0.1:1"], "/nowhere"),
        (["ingest", "--instruments", ","], "--instruments"),
        (["import", "no-such-file.csv"], "no-such-file.csv"),
        (["import"], "FILES"),
        (["simulate", "--symbol", "?"], "?"),
        (["simulate", "--misbehave", "skip=2"], "skip"),
        (["simulate", "--rate", "fast"], "fast"),
        (["simulate", "--rate", "nan"], "finite"),
        (["simulate", "--port", "99999"], "65535"),
        (["demo", "--history", "nan"], "finite"),
        (["demo", "--history", "-1"], "--history"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_gets_one_sentence_and_exit_code_2(arguments: list[str], told: str) -> None:
    result = tickwick(*arguments)
    assert result.returncode == 2, result
    sentences = [line for line in result.stderr.splitlines() if line.startswith("tickwick: ")]
    assert len(sentences) == 1
    assert told in sentences[0]
    assert "Traceback" not in result.stderr


def test_serve_of_a_database_that_was_never_migrated_says_so(empty_database: str) -> None:
    result = tickwick("serve", "--dsn", empty_database, "--port", str(free_port()))
    assert result.returncode == 2
    assert "tickwick migrate" in result.stderr


def test_every_command_has_help_and_every_flag_names_its_variable() -> None:
    for command in ("demo", "migrate", "serve", "ingest", "import", "simulate"):
        text = tickwick(command, "--help", COLUMNS="200").stdout
        flags = [line for line in text.splitlines() if line.strip().startswith("--")]
        assert flags
        body = text.split("Options:")[1]
        assert body.count("TICKWICK_") >= len(flags) - body.count("--help"), text


def test_bare_command_shows_help() -> None:
    result = tickwick()
    assert result.returncode == 0
    assert "demo" in result.stdout
    assert result.stderr == ""


def test_json_logs_hold_nothing_but_json() -> None:
    script = (
        "import logging\nfrom app.settings import Settings\nfrom app.telemetry import configure_logging\n"
        "configure_logging(Settings(log_format='json'))\n"
        "logging.getLogger('psycopg.pool').warning('error connecting in %s: a\\nb', 'pool')\n"
        "import structlog\nstructlog.get_logger().warning('gap opened', from_id=1)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["error connecting in pool: a\nb", "gap opened"]
