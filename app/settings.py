"""The settings of every process: one frozen Struct, built once from flags and environment, then passed down.

Each field is a flag (`--flush-ms`) and an environment variable (`TICKWICK_FLUSH_MS`); the flag wins.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
import msgspec.inspect
from msgspec import Meta

from app.errors import SettingsError

Feed = Literal["trade", "aggTrade", "kline_1s", "miniTicker", "quote"]
SECRET: Final = frozenset({"dsn", "api_key", "admin_token"})


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dsn: Annotated[
        str, Meta(description="PostgreSQL connection string; libpq's own PG* variables fill what it leaves out.")
    ] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="How much to log.")] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"], Meta(description="auto is text on a terminal, JSON elsewhere.")
    ] = "auto"

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(description="Port to listen on.", ge=0, le=65535)] = 8000
    pool_size: Annotated[int, Meta(description="Database connections for requests.", ge=1, le=500)] = 10
    max_clients: Annotated[int, Meta(description="Websocket clients at once; more are told to try later.", ge=1)] = (
        10_000
    )
    stream_flush_ms: Annotated[int, Meta(description="Milliseconds between frames to a client.", ge=1, le=1000)] = 20
    heartbeat_s: Annotated[float, Meta(description="Seconds of silence after which a heartbeat is sent.", gt=0)] = 15
    outbox_bytes: Annotated[
        int, Meta(description="Bytes that may wait for one websocket client before it counts as slow.", ge=65_536)
    ] = 4_194_304

    admin_token: Annotated[
        str, Meta(description="The bearer token that lets a request switch tracking on and off; without it none may.")
    ] = ""

    request_weight: Annotated[
        int, Meta(description="Request weight that an address may use a minute at /api/v3, over all processes.", ge=1)
    ] = 6_000
    connection_limit: Annotated[
        int, Meta(description="Websocket connections of an address in five minutes at /ws and /stream.", ge=1)
    ] = 300

    source: Annotated[
        Literal["binance", "coinbase", "kraken", "coinmarketcap", "simulator"],
        Meta(description="Where ticks come from; simulator is an exchange started by `tickwick simulate`."),
    ] = "binance"
    url: Annotated[str, Meta(description="Websocket address of the source, where it is not the usual one.")] = ""
    rest_url: Annotated[str, Meta(description="REST address of the source, where it is not that of --url.")] = ""
    instruments: Annotated[str, Meta(description="Tickers to track, separated by commas.")] = (
        "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDC"
    )
    feed: Annotated[
        Feed, Meta(description="What to take as ticks; Coinbase and Kraken have trade alone, CoinMarketCap quote.")
    ] = "trade"
    api_key: Annotated[str, Meta(description="Key for CoinMarketCap; better in the environment than in a flag.")] = ""
    poll_seconds: Annotated[
        float,
        Meta(description="Seconds between quotes of CoinMarketCap, each of which costs a credit.", ge=1, le=86_400),
    ] = 300
    flush_ms: Annotated[int, Meta(description="Milliseconds a tick waits for its batch at most.", ge=1, le=1000)] = 10
    flush_ticks: Annotated[int, Meta(description="Ticks in a batch at most.", ge=1, le=100_000)] = 5_000
    buffer_ticks: Annotated[
        int, Meta(description="Ticks that may wait in memory while the database is away.", ge=1_000)
    ] = 500_000
    spool_dir: Annotated[
        str, Meta(description="Folder for ticks that wait for the database; where none is named, your state directory.")
    ] = ""
    spool_bytes: Annotated[
        int,
        Meta(description="Bytes that may wait there, beyond which the newest ticks are refused; 0 spools none.", ge=0),
    ] = 1_073_741_824
    metrics_port: Annotated[int, Meta(description="Port for ingest's own /metrics; 0 serves none.", ge=0, le=65535)] = 0

    def __repr__(self) -> str:
        """All fields but the secrets among them, which are only said to be set."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return [(name, "***" if name in SECRET and value else value) for name, value in fields.items()]


def load(given: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Settings from flags (None means not given), then TICKWICK_* variables, then defaults.

    Raises SettingsError with every problem, one sentence each.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(Settings):
        variable = f"TICKWICK_{field.name.upper()}"
        raw = given.get(field.name)
        source = "--" + field.name.replace("_", "-")
        if raw is None and variable in environ:
            raw, source = environ[variable], variable
        if raw is None:
            continue
        try:
            values[field.name] = msgspec.convert(raw, field.type, strict=False)
        except msgspec.ValidationError:
            problems.append(f"{source} is {raw!r}, but must be {_wanted(field.type)}")
    if problems:
        raise SettingsError("; ".join(problems))
    return Settings(**values)


def _wanted(annotation: Any) -> str:
    """What a setting may be, in words, out of its type."""
    kind = msgspec.inspect.type_info(annotation)
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    match kind:
        case msgspec.inspect.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            number = "a whole number" if isinstance(kind, msgspec.inspect.IntType) else "a number"
            bounds = [
                f"{word} {bound:,}"
                for word, bound in (("above", kind.gt), ("at least", kind.ge), ("at most", kind.le))
                if bound is not None
            ]
            return " and ".join([f"{number} {bounds[0]}", *bounds[1:]]) if bounds else number
        case _:
            return "text"
