"""CoinMarketCap's answers: what they become, and what is refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import OperatorError
from app.market.model import InstrumentId, Tick
from ingest.instruments import Listing
from ingest.sources import AccessDenied, GarbageFrame, RequestRefused, TryLater
from ingest.sources.coinmarketcap import coinmarketcap, listings, parse, requests
from tests.unit.hostile import BROKEN, altered, check, damaged, encode

RECORDING = (Path(__file__).parents[1] / "recordings" / "coinmarketcap_quotes.jsonl").read_bytes().splitlines()
QUOTES, INVALID_KEY, MINUTE_LIMIT, MONTH_LIMIT, BAD_REQUEST = RECORDING
BTC, SHIB, GONE = InstrumentId(7), InstrumentId(8), InstrumentId(9)
IDS = {"BTC-USD": BTC, "SHIB-USD": SHIB, "GONE-USD": GONE}
TIME_US = 1717368660000000
COIN: dict[str, Any] = json.loads(QUOTES)["data"]["SHIB"][0]
PRICE: dict[str, Any] = COIN["quote"]["USD"]


def answer(coin: Any) -> bytes:
    return encode({"status": {"error_code": 0}, "data": {"SHIB": [coin]}})


def test_recorded_quotes_of_the_best_ranked_coin_become_ticks() -> None:
    assert parse(QUOTES, IDS) == [
        Tick(BTC, TIME_US, TIME_US, Decimal("67719.41873410163"), Decimal(0), None),
        Tick(SHIB, TIME_US, TIME_US, Decimal("0.000024123456789012"), Decimal(0), None),
    ]
    assert parse(QUOTES, {"ETH-USD": BTC, "BTC-EUR": SHIB}) == []


@pytest.mark.parametrize("price", ["67719.41873410163", "0.30000000000000004", "1e-8", "12345678901234567890"])
def test_price_that_fits_is_taken_digit_by_digit(price: str) -> None:
    body = answer({**COIN, "quote": {"USD": {**PRICE, "price": 1}}}).replace(
        b'"price": 1,', f'"price": {price},'.encode()
    )
    assert str(parse(body, IDS)[0].price) == str(Decimal(price))


@pytest.mark.parametrize("price", [None, 0, 1e-19])
def test_coin_without_a_price_hides_no_other(price: float | None) -> None:
    other = {"SHIB": [COIN], "GONE": [{**COIN, "symbol": "GONE", "quote": {"USD": {**PRICE, "price": price}}}]}
    ticks = parse(encode({"status": {"error_code": 0}, "data": other}), IDS)
    assert [tick.instrument_id for tick in ticks] == [SHIB]


@pytest.mark.parametrize("changes", [{"price": -1}, {"price": 1e30}, {"price": "NaN"}, {"last_updated": None}], ids=str)
def test_impossible_value_is_garbage(changes: dict[str, Any]) -> None:
    with pytest.raises(GarbageFrame):
        parse(answer({**COIN, "quote": {"USD": {**PRICE, **changes}}}), IDS)


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:12]))
def test_body_that_is_no_answer_is_garbage(body: bytes) -> None:
    with pytest.raises(GarbageFrame):
        parse(body, IDS)


def test_wrong_key_is_denied() -> None:
    with pytest.raises(AccessDenied, match=r"This API Key is invalid\. \(code 1001\)"):
        parse(INVALID_KEY, IDS)


def test_limits_tell_how_long_to_stay_away() -> None:
    with pytest.raises(TryLater) as minute:
        parse(MINUTE_LIMIT, IDS)
    with pytest.raises(TryLater) as month:
        parse(MONTH_LIMIT, IDS)
    assert minute.value.wait == 60
    assert month.value.wait >= 3600


def test_other_refusal_carries_the_venues_words() -> None:
    with pytest.raises(RequestRefused, match=r'Invalid value for "id" \(code 400\)'):
        parse(BAD_REQUEST, IDS)


def test_requests_ask_for_one_currency_and_a_hundred_symbols_each() -> None:
    path = "/v2/cryptocurrency/quotes/latest?symbol={}&convert={}&skip_invalid=true"
    assert requests(["ETH-EUR", "BTC-USD", "ETH-USD"]) == [path.format("ETH", "EUR"), path.format("BTC%2CETH", "USD")]
    many = requests([f"C{number}-USD" for number in range(101)])
    assert [one.count("%2C") for one in many] == [99, 0]
    assert requests([]) == []


def test_key_is_not_shown() -> None:
    source = coinmarketcap("quote", "0f7e-secret", 60.0)
    assert source.headers["X-CMC_PRO_API_KEY"] == "0f7e-secret"
    assert "secret" not in repr(source)
    with pytest.raises(ValueError, match="no feed 'trade'"):
        coinmarketcap("trade", "key", 60.0)


async def test_listings_take_base_and_quote_from_the_ticker() -> None:
    assert await listings(["BTC-USD"]) == {"BTC-USD": Listing("BTC", "USD", 2)}
    with pytest.raises(OperatorError, match=r"BTCUSD: .* as in BTC-USD"):
        await listings(["BTC-USD", "BTCUSD"])


@given(st.one_of(st.binary(), st.text()))
def test_any_bytes_give_ticks_or_a_known_exception(body: bytes | str) -> None:
    check(lambda: parse(body, IDS))


@given(altered(COIN), altered(PRICE))
def test_any_altered_quote_gives_ticks_or_a_known_exception(coin: dict[str, Any], price: dict[str, Any]) -> None:
    if "quote" in coin and coin["quote"] == COIN["quote"]:
        coin["quote"] = {"USD": price}
    check(lambda: parse(answer(coin), IDS))


@given(damaged(RECORDING))
def test_any_damaged_recording_gives_ticks_or_a_known_exception(body: bytes) -> None:
    check(lambda: parse(body, IDS))
