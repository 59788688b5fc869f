"""Reading dumps and plain CSV: what comes out of right rows, and what is said of wrong ones."""

import random
import tracemalloc
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import OperatorError
from app.market.model import MAX_TIME_US, InstrumentId, Tick, from_micros, plain, tick_problem
from ingest import archive
from ingest.archive import ArchiveName, Layout, Rejected, describe, feed_of, layout_of, read, size

ID = InstrumentId(7)
ROW = "553287559,39432.48000000,0.00026300,10.37074224,1610064000278,True,True"
TICK = Tick(ID, 553287559, 1610064000278000, Decimal("39432.48000000"), Decimal("0.00026300"), True)
AGG_ROW = "26129,0.01633102,4.70443515,27781,27782,1610064000278,False,true"
AGG_TICK = Tick(ID, 26129, 1610064000278000, Decimal("0.01633102"), Decimal("4.70443515"), False)


def read_all(path: Path, layout: Layout) -> tuple[list[Tick], list[Rejected]]:
    batches = list(read(path, layout, ID))
    assert sum(batch.bytes_read for batch in batches) == size(path)
    assert all(len(batch.ticks) <= 10_000 for batch in batches)
    return [tick for batch in batches for tick in batch.ticks], [bad for batch in batches for bad in batch.rejected]


def read_text(folder: Path, text: str | bytes, layout: Layout = "trades") -> tuple[list[Tick], list[Rejected]]:
    path = folder / "file.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_all(path, layout)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("XRPETH-aggTrades-2019-10-11.csv", ("XRPETH", "aggTrades", "BINANCE")),
        ("binance_BTCUSDT-trades-2021-01-08.csv", ("BTCUSDT", "trades", "BINANCE")),
        ("BTCUSDT-trades-2021-01-08.zip", ("BTCUSDT", "trades", "BINANCE")),
        ("BTCUSDT-trades-2021-01.ZIP", ("BTCUSDT", "trades", "BINANCE")),
        ("1000satsfdusd-aggtrades-2024-02-29 (2).csv", ("1000SATSFDUSD", "aggTrades", "BINANCE")),
        ("okx_BTCUSDT-trades-2021-01-08.csv", ("BTCUSDT", "trades", "OKX")),
        ("BTCUSDT-1m-2021-01-08.csv", (None, None, None)),
        ("BTCUSDT-trades-2021-01-08.csv.gz", (None, None, None)),
        ("prices.csv", (None, None, None)),
    ],
)
def test_describe_tells_ticker_layout_and_source_from_the_name(
    name: str, expected: tuple[str | None, Layout | None, str | None]
) -> None:
    assert describe(Path("/some/folder", name)) == ArchiveName(*expected)


@pytest.mark.parametrize(
    ("first_row", "layout"),
    [
        (ROW, "trades"),
        (AGG_ROW, "aggTrades"),
        ("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match", "trades"),
        (
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,is_best_match",
            "aggTrades",
        ),
        ("Price,note,TIME", "plain"),
        ('"time","price"', "plain"),
        ("time,price,buyer_is_maker,trade_id", "plain"),
    ],
)
def test_layout_without_a_telling_name_is_told_by_the_first_row(tmp_path: Path, first_row: str, layout: str) -> None:
    path = tmp_path / "file.csv"
    path.write_text(f"\ufeff\n\r\n{first_row}\r\nrest")
    assert layout_of(path) == layout
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as packed:
        packed.write(path, "inside.csv")
    assert layout_of(tmp_path / "file.zip") == layout


def test_layout_told_by_the_name_needs_no_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as packed:
        packed.writestr("XRPETH-aggTrades-2019-10-11.csv", "")
    assert layout_of(tmp_path / "download.zip") == "aggTrades"
    assert layout_of(tmp_path / "XRPETH-aggTrades-2019-10-11.csv") == "aggTrades"


@pytest.mark.parametrize("text", ["", "\n\n", "open,high,low\n1,2,3\n", "PK", "\x00\x01\n", "{}", ROW.encode("utf-16")])
def test_layout_of_anything_else_is_an_error(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OperatorError, match=r"file\.csv is in no known layout: its first row should be"):
        layout_of(path)


def test_feed_is_what_the_ids_count(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text("time,price,trade_id\n")
    assert feed_of(path, "plain") == "trade"
    path.write_text("time,price\n")
    assert feed_of(path, "plain") == "quote"
    assert feed_of(path, "trades") == "trade"
    assert feed_of(path, "aggTrades") == "aggTrade"


@pytest.mark.parametrize(
    ("layout", "row", "tick", "header"),
    [
        ("trades", ROW, TICK, "id,price,qty,quote_qty,time,is_buyer_maker,is_best_match"),
        ("aggTrades", AGG_ROW, AGG_TICK, "aggId,Price,qty,firstId,lastId,time,isBuyerMaker,isBestMatch"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "shape",
    ["{row}{end}", "{row}", "\ufeff{row}{end}", "{header}{end}{row}", "\ufeff{end}{header}{end}{end}{row}{end}{end}"],
)
def test_dump_row_in_any_frame_is_the_tick(
    tmp_path: Path, layout: Layout, row: str, tick: Tick, header: str, end: str, shape: str
) -> None:
    assert read_text(tmp_path, shape.format(row=row, header=header, end=end), layout) == ([tick], [])


@pytest.mark.parametrize(
    ("time", "time_us"),
    [
        ("1610064000", 1610064000_000000),
        ("1610064000.25", 1610064000_250000),
        ("1610064000278", 1610064000_278000),
        ("1735689600123456", 1735689600_123456),
        ("99999999999", None),
        ("100000000000", 100_000_000_000_000),
        ("99999999999999", None),
        ("100000000000000", 100_000_000_000_000),
        ("9214646399999", 9214646399_999000),
        ("9214646400000", None),
    ],
)
def test_time_unit_is_told_by_magnitude(tmp_path: Path, time: str, time_us: int | None) -> None:
    ticks, rejected = read_text(tmp_path, ROW.replace("1610064000278", time))
    assert [tick.time_us for tick in ticks] == ([] if time_us is None else [time_us])
    assert [(bad.field, bad.reason) for bad in rejected] == (
        [("time", "is not between 1970 and 2262")] if time_us is None else []
    )


def replaced(number: int, value: str) -> str:
    fields = ROW.split(",")
    fields[number] = value
    return ",".join(fields)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (replaced(0, "x"), "id", "is not a whole number"),
        (replaced(0, ""), "id", "is empty"),
        (replaced(0, "-1"), "id", "is not between 0 and 2^63 - 1"),
        (replaced(0, str(2**63)), "id", "is not between 0 and 2^63 - 1"),
        (replaced(0, "9" * 4000), "id", "is not between 0 and 2^63 - 1"),
        (replaced(0, "1_0"), "id", "is not a whole number"),
        (replaced(0, "\u0661"), "id", "is not a whole number"),
        (replaced(1, "0.00"), "price", "is not above zero"),
        (replaced(1, "-1"), "price", "is not above zero"),
        (replaced(1, "NaN"), "price", "is not a plain decimal number"),
        (replaced(1, "inf"), "price", "is not a plain decimal number"),
        (replaced(1, "1e5"), "price", "is not a plain decimal number"),
        (replaced(1, "1_000"), "price", "is not a plain decimal number"),
        (replaced(1, " 1"), "price", "is not a plain decimal number"),
        (replaced(1, "1."), "price", "is not a plain decimal number"),
        (replaced(1, ".5"), "price", "is not a plain decimal number"),
        (replaced(1, "+5"), "price", "is not a plain decimal number"),
        (replaced(1, '"1,000"'), "price", "is not a plain decimal number"),
        (replaced(1, "0.1234567890123456789"), "price", "has more than 18 decimal places"),
        (replaced(1, "1" * 21), "price", "has more than 20 digits before the point"),
        (replaced(2, "0.1234567890123456780"), "qty", "has more than 18 decimal places"),
        (replaced(2, "-0.1"), "qty", "is below zero"),
        (replaced(2, ""), "qty", "is empty"),
        (replaced(3, "1e5"), "quoteQty", "is not a plain decimal number"),
        (replaced(4, "1610064000278.5555"), "time", "is finer than a microsecond"),
        (replaced(4, "1" * 30), "time", "is not between 1970 and 2262"),
        (replaced(4, "1" * 31), "time", "is neither a number since 1970 nor ISO 8601"),
        (replaced(4, "-1610064000278"), "time", "is neither a number since 1970 nor ISO 8601"),
        (replaced(5, "TRUE"), "isBuyerMaker", "is neither true nor false"),
        (replaced(6, "2"), "isBestMatch", "is neither true nor false"),
        (replaced(6, "True\r\r"), "isBestMatch", "is neither true nor false"),
        (ROW.replace(",", ";"), "row", "has 1 columns instead of 7"),
        (ROW + ",", "row", "has 8 columns instead of 7"),
        (ROW[:40], "row", "has 4 columns instead of 7"),
        ('"' + ROW, "row", "is not CSV: unexpected end of data"),
        ("x" * 5000, "row", "is longer than 4096 characters"),
        (ROW + " " * 5000, "row", "is longer than 4096 characters"),
    ],
)
def test_wrong_row_is_rejected_by_line_and_field_and_the_rest_is_read(
    tmp_path: Path, row: str, field: str, reason: str
) -> None:
    ticks, rejected = read_text(tmp_path, f"{ROW}\n\n{row}\n{ROW}\r\n")
    assert ticks == [TICK, TICK]
    assert [(bad.line, bad.field, bad.reason) for bad in rejected] == [(3, field, reason)]
    assert len(rejected[0].text) <= 80
    assert rejected[0].text.isprintable()


def test_right_but_unusual_rows_are_read(tmp_path: Path) -> None:
    rows = [
        replaced(0, str(2**63 - 1)),
        replaced(1, "00000000000000000000012345678901234567890.123456789012345678"),
        replaced(2, "0"),
        replaced(4, "2021-01-08T01:00:00.278+01:00"),
        '"' + ROW.replace(",", '","') + '"',
    ]
    ticks, rejected = read_text(tmp_path, "\n".join(rows))
    assert rejected == []
    assert [tick.trade_id for tick in ticks] == [2**63 - 1] + [TICK.trade_id] * 4
    assert plain(ticks[1].price) == "12345678901234567890.123456789012345678"
    assert ticks[2].size == 0
    assert ticks[3:] == [TICK, TICK]


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe" + ROW.encode(), ROW.encode() + b"\x00", b"\x00" * 100, b"\xc3", "\u2028\x1b[2J".encode(), b"a,b\x85c"],
)
def test_bytes_that_are_no_text_are_a_rejected_row_shown_harmlessly(tmp_path: Path, line: bytes) -> None:
    ticks, rejected = read_text(tmp_path, ROW.encode() + b"\n" + line + b"\n" + ROW.encode())
    assert ticks == [TICK, TICK]
    assert [bad.line for bad in rejected] == [2]
    assert rejected[0].text.isprintable()


def test_first_row_that_is_wrong_is_rejected_and_not_taken_for_a_header(tmp_path: Path) -> None:
    for wrong in ("x" + ROW, "a,b,c,d,e,f,g", "id,price"):
        ticks, rejected = read_text(tmp_path, f"{wrong}\n{ROW}\n")
        assert ticks == [TICK]
        assert [bad.line for bad in rejected] == [1]


PLAIN_TIME = 1610064000_278000


@pytest.mark.parametrize(
    ("header", "row", "tick"),
    [
        ("time,price", "1610064000278,1.50", Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal("1.50"), Decimal(0), None)),
        (
            "PRICE, Time ,size",
            "2,1610064000.278,0.1",
            Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal(2), Decimal("0.1"), None),
        ),
        ("trade_id,time,price", "5,1610064000278000,2", Tick(ID, 5, PLAIN_TIME, Decimal(2), Decimal(0), None)),
        (
            "time,price,side",
            "2021-01-08 00:00:00.278Z,2,Sell",
            Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal(2), Decimal(0), True),
        ),
        (
            "time,price,side",
            "2021-01-07T19:00:00.2780000-0500,2,BUY",
            Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal(2), Decimal(0), False),
        ),
        (
            "time,price,buyer_is_maker,size",
            "1610064000278,2,,",
            Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal(2), Decimal(0), None),
        ),
        (
            "time,price,buyer_is_maker",
            "1610064000278,2,1",
            Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal(2), Decimal(0), True),
        ),
        (
            "time,note,price",
            '1610064000278,"a ""b"", c",2',
            Tick(ID, PLAIN_TIME, PLAIN_TIME, Decimal(2), Decimal(0), None),
        ),
    ],
)
def test_plain_row_is_read_by_the_names_of_its_columns(tmp_path: Path, header: str, row: str, tick: Tick) -> None:
    assert read_text(tmp_path, f"\ufeff\n{header}\n{row}\n", "plain") == ([tick], [])


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("2021-01-08T00:00:00,1,1,buy,1", "time", "has no offset from UTC such as Z or +02:00"),
        ("2021-02-30T00:00:00Z,1,1,buy,1", "time", "is no time of the calendar"),
        ("2021-01-08T00:00:00+25:00,1,1,buy,1", "time", "is no time of the calendar"),
        ("2021-01-08T00:00:00.1234567Z,1,1,buy,1", "time", "is finer than a microsecond"),
        ("1969-12-31T23:59:59Z,1,1,buy,1", "time", "is not between 1970 and 2262"),
        ("9999-12-31T23:59:59-23:00,1,1,buy,1", "time", "is not between 1970 and 2262"),
        ("0001-01-01T00:00:00+23:00,1,1,buy,1", "time", "is not between 1970 and 2262"),
        ("2021-01-08,1,1,buy,1", "time", "is neither a number since 1970 nor ISO 8601"),
        ("1,,1,buy,1", "price", "is empty"),
        ("1,1,1,hold,1", "side", "is neither buy nor sell"),
        ("1,1,x,buy,1", "size", "is not a plain decimal number"),
        ("1,1,1,buy,", "trade_id", "is empty"),
        ('1,1,1,buy,"1', "row", "is not CSV: unexpected end of data"),
        ("1,1,1,buy", "row", "has 4 columns instead of 5"),
    ],
)
def test_plain_row_that_is_wrong_is_rejected(tmp_path: Path, row: str, field: str, reason: str) -> None:
    right = "1610064000278,2,1,buy,4"
    ticks, rejected = read_text(tmp_path, f"time,price,size,side,trade_id\n{right}\n{row}\n{right}", "plain")
    assert len(ticks) == 2
    assert rejected == [Rejected(3, field, reason, row)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("time,size", "names no price: 'time,size'"),
        ("a,b", "names no price and no time"),
        (ROW, "names no price and no time"),
        ("time,price,Price", "names price twice"),
        ("time,price,side,buyer_is_maker", "names buyer_is_maker twice"),
        ('time,price,"', "is not CSV"),
        ("time,price," + "x" * 5000, "is longer than 4096 characters"),
    ],
)
def test_plain_header_that_does_not_do_is_an_error(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(OperatorError, match=rf"the header line of .*file\.csv {message}"):
        read_text(tmp_path, header + "\n1,2\n", "plain")


def test_empty_file_has_no_ticks(tmp_path: Path) -> None:
    for text in ("", "\n\r\n", "id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch"):
        assert read_text(tmp_path, text) == ([], [])
        assert read_text(tmp_path, text.replace("id,", "trade_id,"), "plain" if "," in text else "trades") == ([], [])


decimals = st.decimals(min_value=0, max_value=10**20 - 1, places=18, allow_nan=False, allow_infinity=False)
ticks = st.builds(
    Tick,
    st.just(ID),
    st.integers(0, 2**63 - 1),
    st.integers(10**14, MAX_TIME_US - 1),
    st.one_of(decimals, st.integers(1, 10**20 - 1).map(Decimal)),
    decimals,
    st.booleans(),
).filter(lambda tick: tick_problem(tick) is None)


def row_of(tick: Tick, layout: Layout) -> str:
    price, quantity = plain(tick.price), plain(tick.size)
    if layout == "trades":
        return f"{tick.trade_id},{price},{quantity},1.5,{tick.time_us},{tick.buyer_is_maker},True"
    if layout == "aggTrades":
        return f"{tick.trade_id},{price},{quantity},1,2,{tick.time_us},{str(tick.buyer_is_maker).lower()},1"
    side = "sell" if tick.buyer_is_maker else "buy"
    return f"{from_micros(tick.time_us).isoformat()},{quantity},{price},{tick.trade_id},{side}"


@given(
    st.lists(ticks),
    st.sampled_from(["trades", "aggTrades", "plain"]),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
)
def test_ticks_written_as_rows_are_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, expected: list[Tick], layout: Layout, end: str, last_end: bool
) -> None:
    header = ["time,size,price,trade_id,side"] if layout == "plain" else []
    text = end.join([*header, *(row_of(tick, layout) for tick in expected)]) + (end if last_end else "")
    assert read_text(tmp_path_factory.getbasetemp(), text, layout) == (expected, [])


hostile = st.one_of(
    st.binary(max_size=60),
    st.text("0123456789.,eE+-_ \"'\x00\rTrueFals", max_size=60).map(str.encode),
    st.sampled_from([ROW.encode(), AGG_ROW.encode(), b"2021-01-08T00:00:00Z,5", b"time,price", b"\xef\xbb\xbf"]),
    st.tuples(st.sampled_from(range(7)), st.text("0123456789.-eE", max_size=45)).map(
        lambda spot: replaced(*spot).encode()
    ),
)


@given(st.lists(hostile, max_size=12), st.sampled_from(["trades", "aggTrades", "plain"]))
def test_any_bytes_give_sound_ticks_and_a_rejection_for_every_other_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], layout: Layout
) -> None:
    header = b"time,price\n" if layout == "plain" else ROW.encode() + b"\n"
    text = header + b"\n".join(lines)
    ticks, rejected = read_text(tmp_path_factory.getbasetemp(), text, layout)
    blank = sum(not str(line, "utf-8", "backslashreplace").strip() for line in text.split(b"\n"))
    assert len(ticks) + len(rejected) == text.count(b"\n") + 1 - blank - (layout == "plain")
    assert [problem for tick in ticks if (problem := tick_problem(tick))] == []
    assert all(bad.text.isprintable() and len(bad.text) <= 80 for bad in rejected)


def test_blocks_cut_anywhere_give_the_same_ticks_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"\ufeffid,price,qty,quoteQty,time,isBuyerMaker,isBestMatch\r\n\n{ROW}\nbad ä row\n{ROW}\r\n\nworse"
    expected = read_text(tmp_path, text)
    assert [(len(expected[0]), [bad.line for bad in expected[1]])] == [(2, [4, 7])]
    for length in range(1, 200):
        monkeypatch.setattr(archive, "BLOCK_BYTES", length)
        assert read_text(tmp_path, text) == expected


def test_line_longer_than_blocks_is_one_rejected_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BLOCK_BYTES", 1000)
    ticks, rejected = read_text(tmp_path, f"{ROW}\n{ROW}{'ä,' * 30_000}{ROW}\n{ROW}\n" + "1" * 50_000)
    assert ticks == [TICK, TICK]
    assert [(bad.line, bad.reason) for bad in rejected] == [
        (2, "is longer than 4096 characters"),
        (4, "is longer than 4096 characters"),
    ]


def test_batches_keep_the_order_and_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text("time,price\n" + "".join(f"{number},1\n" for number in range(25_000)))
    batches = list(read(path, "plain", ID))
    assert [len(batch.ticks) for batch in batches] == [10_000, 10_000, 5_000]
    assert [tick.time_us for batch in batches for tick in batch.ticks] == [n * 1_000_000 for n in range(25_000)]
    assert sum(batch.bytes_read for batch in batches) == size(path)


def test_zip_gives_all_its_csv_files_by_name_each_with_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("BTCUSDT-trades-2021-01-09.csv", ROW.replace("553287559", "2") + "\nbad")
        packed.writestr("../../BTCUSDT-trades-2021-01-08.csv", ROW.replace("553287559", "1"))
        packed.writestr("folder.csv/", "")
        packed.writestr("README.txt", "nothing")
        packed.writestr("__MACOSX/._BTCUSDT-trades-2021-01-08.csv", "\x00")
        packed.writestr("evil\x1b[2J.CSV", ROW.replace("553287559", "3") + "\n,")
    ticks, rejected = read_all(path, "trades")
    assert [tick.trade_id for tick in ticks] == [1, 2, 3]
    assert [(bad.line, bad.member) for bad in rejected] == [
        (2, "BTCUSDT-trades-2021-01-09.csv"),
        (2, "evil\\x1b[2J.CSV"),
    ]
    assert list(tmp_path.iterdir()) == [path]
    assert read_all(path.rename(tmp_path / "named.csv"), "trades")[0] == ticks


def zipped(path: Path, **members: str) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in members.items():
            packed.writestr(f"{name}.csv", text)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "is not a ZIP file, or is damaged"),
        (lambda good: ROW.encode(), "is not a ZIP file, or is damaged"),
        (lambda good: good[:-30], "is not a ZIP file, or is damaged"),
        (lambda good: good[:60] + bytes(200) + good[260:], "is not a ZIP file, or is damaged"),
        (lambda good: good.replace(b"a.csv", b"a.txt"), "has no CSV file in it"),
    ],
)
def test_zip_that_is_damaged_is_an_error(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "file.zip"
    source = random.Random(5)
    good = zipped(path, a="\n".join(ROW.replace("553", str(source.random())) for _ in range(1000)))
    path.write_bytes(damage(good))  # type: ignore[operator]
    with pytest.raises(OperatorError, match=message):
        read_all(path, "trades")


def test_zip_with_any_byte_changed_never_crashes(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    good = zipped(path, ä=ROW, b=ROW)
    for spot in range(len(good)):
        for value in (0, 1, 9, 255):
            path.write_bytes(good[:spot] + bytes([value]) + good[spot + 1 :])
            try:
                size(path)
                layout_of(path)
                assert sum(len(batch.ticks) for batch in read(path, "trades", ID)) <= 2
            except OperatorError as error:
                assert str(path) in str(error)  # noqa: PT017  # either outcome is right


def test_zip_that_is_encrypted_or_of_several_instruments_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    good = bytearray(zipped(path, a=ROW))
    good[good.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(good)
    with pytest.raises(OperatorError, match="is encrypted: unpack it first"):
        read_all(path, "trades")
    zipped(path, **{"BTCUSDT-trades-2021-01-08": ROW, "ETHUSDT-trades-2021-01-08": ROW})
    with pytest.raises(OperatorError, match=r"holds several instruments \(BTCUSDT, ETHUSDT\)"):
        read_all(path, "trades")


@pytest.mark.parametrize("name", ["absent.csv", "absent.zip", "folder", "folder.zip"])
def test_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.zip").mkdir()
    path = tmp_path / name
    for action in (lambda: layout_of(path), lambda: list(read(path, "trades", ID))):
        with pytest.raises(OperatorError, match=f"{name} cannot be read: (No such file|Is a) "):
            action()


def test_reading_keeps_memory_bounded_whatever_the_zip_unpacks_to(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("one-line.csv", "w") as member:
        for _ in range(64):
            member.write(b"1" * (1 << 20))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed, packed.open("blank.csv", "w") as member:
        for _ in range(8):
            member.write(b"\n" * (1 << 20))
    tracemalloc.start()
    try:
        _, rejected = read_all(path, "trades")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [bad.member for bad in rejected] == ["one-line.csv"]
    assert peak < 8 << 20
