"""Every error the product raises on purpose.

TickwickError
├── OperatorError             one clear sentence, exit code 2: a mistake in how a command was called or set up
│   ├── SettingsError         a setting is missing or wrong
│   └── DatabaseRefused       the server is reachable but cannot serve us: rights, version, licence
├── StreamFailed             the live feed ended by itself, and the server with it: exit code 1
├── DatabaseUnavailable       the server cannot be reached, or went away (503)
├── InvalidParameter          a request's parameter is wrong (400): names the field and what would be right
├── UnknownSymbol             no such instrument (404), with near matches
└── NothingThere              the instrument exists, but what was asked for does not (404)
"""

from collections.abc import Sequence


class TickwickError(Exception):
    """The root of the tree; its text is fit for a user's eyes."""


class OperatorError(TickwickError):
    """Shown as one sentence on standard error; the process exits with code 2."""


class SettingsError(OperatorError):
    """One or more settings are missing or wrong; the text lists all of them."""


class DatabaseRefused(OperatorError):
    """The server answered, but rights, version or licence do not allow what was asked."""


class StreamFailed(TickwickError):
    """The server shut down because its live feed failed; the process exits with code 1, to be started anew."""


class DatabaseUnavailable(TickwickError):
    """The database cannot be reached, or the connection was lost."""


class InvalidParameter(TickwickError):
    """A parameter of a request is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class UnknownSymbol(TickwickError):
    """No instrument goes by that symbol; `near` lists at most five that come close."""

    def __init__(self, symbol: str, near: Sequence[str] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"no instrument is called {symbol!r}{hint}")
        self.symbol = symbol
        self.near = tuple(near)


class NothingThere(TickwickError):
    """The instrument is known, but has nothing at the place asked for."""
