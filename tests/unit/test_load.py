"""What an import takes for the assets of a new instrument."""

import pytest

from ingest.load import _assets


@pytest.mark.parametrize(
    ("ticker", "assets"),
    [
        ("BTCUSDT", ("BTC", "USDT")),
        ("BTC-USD", ("BTC", "USD")),
        ("BTC/USDT", ("BTC", "USDT")),
        ("XRPETH", ("XRP", "ETH")),
        ("BTCFDUSD", ("BTC", "FDUSD")),
        ("USDT", (None, None)),
        ("-USDT", (None, None)),
        ("MILK-", (None, None)),
        ("MILK", (None, None)),
    ],
)
def test_assets_are_told_apart_by_the_quote_and_without_what_divides_them(
    ticker: str, assets: tuple[str | None, str | None]
) -> None:
    assert _assets(ticker) == assets
