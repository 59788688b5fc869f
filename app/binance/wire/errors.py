"""The errors of Binance's REST, with its codes and its words (errors.md of its documentation)."""


class BinanceError(Exception):
    """What a call is answered with: `code` and message in the body, `status` of HTTP, seconds until a retry helps."""

    def __init__(self, code: int, message: str, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, object]:
        return {"code": self.code, "msg": str(self)}


def unavailable() -> BinanceError:
    return BinanceError(-1001, "Internal error; unable to process your request. Please try again.", 503)


def too_much_weight(limit: int, retry_after: int) -> BinanceError:
    """More request weight than `limit` a minute; the minute ends in `retry_after` seconds."""
    return BinanceError(
        -1003,
        f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE."
        " Please use WebSocket Streams for live updates to avoid polling the API.",
        429,
        retry_after,
    )


def too_many_connections(limit: int, retry_after: int) -> BinanceError:
    """More websocket connections of an address than `limit` in five minutes."""
    return BinanceError(
        -1034, f"Too many connection attempts from IP; current limit is {limit} per '5 MINUTES'.", 429, retry_after
    )


def unsupported() -> BinanceError:
    return BinanceError(-1020, "This operation is not supported.", 404)


def illegal(name: str, legal: str) -> BinanceError:
    """Characters beyond the regular expression `legal`."""
    return BinanceError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def too_many(expected: int, received: int) -> BinanceError:
    """Parameters that the call does not know: `expected` counts those that it knows among the `received`."""
    return BinanceError(-1101, f"Too many parameters; expected '{expected}' and received '{received}'.")


def duplicate() -> BinanceError:
    """A parameter that came twice."""
    return BinanceError(-1101, "Duplicate values for a parameter detected.")


def too_many_values(name: str, most: int) -> BinanceError:
    return BinanceError(-1101, f"Too many values sent for parameter '{name}', maximum allowed up to {most}.")


def missing(name: str) -> BinanceError:
    return BinanceError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def missing_both(one: str, other: str) -> BinanceError:
    return BinanceError(-1102, f"Param '{one}' or '{other}' must be sent, but both were empty/null!")


def empty(name: str) -> BinanceError:
    """An optional parameter that came without a value."""
    return BinanceError(-1105, f"Parameter '{name}' was empty.")


def bad_interval() -> BinanceError:
    return BinanceError(-1120, "Invalid interval.")


def bad_symbol() -> BinanceError:
    return BinanceError(-1121, "Invalid symbol.")


def bad_status() -> BinanceError:
    return BinanceError(-1122, "Invalid symbolStatus.")


def bad_combination() -> BinanceError:
    return BinanceError(-1128, "Combination of optional parameters invalid.")


def invalid(name: str) -> BinanceError:
    return BinanceError(-1130, f"Data sent for parameter '{name}' is not valid.")


def bad_ticker_type() -> BinanceError:
    return BinanceError(-1139, "Invalid ticker type.")


def duplicate_symbols() -> BinanceError:
    return BinanceError(-1151, "Symbol is present multiple times in the list.")


def bad_time_unit() -> BinanceError:
    return BinanceError(-1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")


def status_mismatch() -> BinanceError:
    return BinanceError(-1220, "The symbol's status does not match the requested symbolStatus.")
