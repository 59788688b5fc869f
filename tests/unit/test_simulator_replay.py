import zipfile
from pathlib import Path

import pytest

from app.errors import OperatorError
from ingest.simulator.replay import Replay
from ingest.simulator.tape import Trade

ROWS = """\
553287559,39432.48000000,0.00026300,10.37074224,1610064000278,True,True
553287560,39439.44000000,0.00437600,172.58698944,1610064000310,False,True
553287561,39439.22000000,0.00031100,12.26559742,1610064000310,False,True
553287565,39440.00000000,1.00000000,39440.00000000,1610064002278,True,True
"""
FIRST_US = 1_610_064_000_278_000
START_US = 1_800_000_000_000_000


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "BTCUSDT-trades-2021-01-08.csv"
    path.write_text(ROWS)
    return path


def test_replay_keeps_ids_and_digits_of_the_file(dump: Path) -> None:
    replay = Replay(dump, keep_times=True)
    assert replay.listing.symbol == "BTCUSDT"
    assert (replay.listing.tick_places, replay.listing.step_places) == (2, 6)
    assert replay.trades(0, 100)[:2] == [
        Trade(553287559, FIRST_US, "39432.48000000", "0.00026300", True),
        Trade(553287560, FIRST_US + 32_000, "39439.44000000", "0.00437600", False),
    ]
    assert [trade.id for trade in replay.trades(553287560, 2)] == [553287560, 553287561]
    assert [trade.id for trade in replay.trades(553287562, 5)] == [553287565]


def test_replay_before_its_begin_has_traded_nothing(dump: Path) -> None:
    replay = Replay(dump)
    assert replay.trades(0, 10, replay.now_us(START_US)) == []
    assert replay.latest(10, replay.now_us(START_US)) == []


def test_replay_begun_starts_with_its_first_trade_at_the_chosen_speed(dump: Path) -> None:
    replay = Replay(dump, speed=2)
    replay.begin(START_US)
    replay.begin(START_US + 99)
    times = [trade.time_us - START_US for trade in replay.trades(0, 10)]
    assert times == [0, 16_000, 16_000, 1_000_000]
    assert [trade.id for trade in replay.trades(0, 10, replay.now_us(START_US + 999_999))] == [
        553287559,
        553287560,
        553287561,
    ]
    assert replay.id_at(START_US + 16_001) == 553287565
    assert replay.time_of(553287562) == START_US + 1_000_000
    assert replay.time_of(553287566) is None
    assert replay.id_at(START_US + 1_000_001) == 553287566


def test_replay_that_keeps_times_moves_its_own_clock(dump: Path) -> None:
    replay = Replay(dump, speed=4, keep_times=True)
    replay.begin(START_US)
    assert replay.now_us(START_US) == FIRST_US
    assert replay.now_us(START_US + 500_000) == FIRST_US + 2_000_000
    assert len(replay.trades(0, 10, replay.now_us(START_US + 500_000))) == 4
    assert len(replay.latest(10, replay.now_us(START_US + 499_999))) == 3


def test_replay_of_a_zip_with_microseconds_and_header_equals_the_csv(dump: Path, tmp_path: Path) -> None:
    rows = ROWS.splitlines()
    micro = [",".join([*row.split(",")[:4], row.split(",")[4] + "000", *row.split(",")[5:]]) for row in rows]
    path = tmp_path / "BTCUSDT-trades-2025-01-08.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.csv", "\n".join(["id,price,qty,quote_qty,time,is_buyer_maker,is_best_match", *micro]))
    assert Replay(path).trades(0, 10) == Replay(dump).trades(0, 10)


def test_replay_of_aggregates_takes_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "XRPETH-aggTrades-2019-10-11.csv"
    path.write_text("10,0.00141,5.0,20,22,1570752000000,true,true\n")
    assert Replay(path).trades(0, 10) == [Trade(10, 1_570_752_000_000_000, "0.00141", "5.0", True)]


def test_replay_of_unordered_and_repeated_rows_is_ascending_and_unique(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-x.csv"
    path.write_text("".join(reversed(ROWS.splitlines(keepends=True))) + "\n" + ROWS)
    assert [trade.id for trade in Replay(path).trades(0, 10)] == [553287559, 553287560, 553287561, 553287565]


def test_replay_trade_that_is_absent_is_a_lookup_error(dump: Path) -> None:
    replay = Replay(dump)
    assert replay.trade(553287561).price == "39439.22000000"
    with pytest.raises(LookupError):
        replay.trade(553287562)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2,1.5,1", "3 columns"),
        ("2,abc,1,1,1610064000278,True,True", "no number"),
        ("2,NaN,1,1,1610064000278,True,True", "price is not a finite number"),
        ("2,1,1,1,noon,True,True", "noon"),
        ("2,1,1,1,1610064000278,perhaps,True", "perhaps"),
    ],
)
def test_replay_of_a_bad_row_names_the_line(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "BTCUSDT-trades-x.csv"
    path.write_text(f"1,1,1,1,1610064000278,True,True\n{row}\n")
    with pytest.raises(OperatorError, match="line 2") as caught:
        Replay(path)
    assert reason in str(caught.value)


def test_replay_of_what_cannot_be_played_is_an_operator_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        Replay(tmp_path / "BTCUSDT-trades-absent.csv")
    empty = tmp_path / "BTCUSDT-trades-empty.csv"
    empty.write_text("")
    with pytest.raises(OperatorError, match="no trades"):
        Replay(empty)
    nameless = tmp_path / "dump.csv"
    nameless.write_text(ROWS)
    with pytest.raises(OperatorError, match="--symbol"):
        Replay(nameless)
    assert Replay(nameless, symbol="ETHUSDT").listing.symbol == "ETHUSDT"
    with pytest.raises(OperatorError, match="speed"):
        Replay(nameless, symbol="ETHUSDT", speed=0)
