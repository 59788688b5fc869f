"""Connections to PostgreSQL, and the one place where driver errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from app.errors import DatabaseRefused, DatabaseUnavailable

Pool = AsyncConnectionPool[AsyncConnection[Any]]

# A lost server shows within 10 s even where no packet comes back.
_KEEPALIVE: Final = {
    "connect_timeout": "3",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

# Plans are made for the values at hand: a generic plan would look into every chunk or partition.
_OPTIONS: Final = "-c timezone=UTC -c plan_cache_mode=force_custom_plan"


def conninfo(dsn: str, application: str) -> str:
    """The connection string of one of our processes. Raises DatabaseRefused when the DSN cannot be read."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
        options = " ".join(filter(None, [str(given.get("options") or ""), _OPTIONS]))
        return make_conninfo(dsn, **{**_KEEPALIVE, "application_name": application, **given, "options": options})
    except psycopg.ProgrammingError as error:
        raise DatabaseRefused(f"the DSN cannot be read: {_sentence(error)}") from None


async def connect(dsn: str, application: str, *, numerics_as_text: bool = False) -> AsyncConnection[Any]:
    """One connection in autocommit mode, times in UTC. Raises DatabaseUnavailable or DatabaseRefused."""
    with translated():
        conn = await AsyncConnection.connect(conninfo(dsn, application), autocommit=True)
    if numerics_as_text:
        read_numerics_as_text(conn)
    return conn


def pool(dsn: str, application: str, size: int) -> Pool:
    """A closed pool whose connections read numerics as the text that goes on the wire. Open it as a context manager."""

    async def configure(conn: AsyncConnection[Any]) -> None:
        read_numerics_as_text(conn)

    async def check(conn: AsyncConnection[Any]) -> None:
        try:
            await AsyncConnectionPool.check_connection(conn)
        except psycopg.OperationalError:
            # The others are as dead, most likely: tried one after the other, they would cost request after request.
            await made.drain()
            raise

    made: Pool = AsyncConnectionPool(
        conninfo(dsn, application),
        kwargs={"autocommit": True},
        min_size=1,
        max_size=size,
        open=False,
        timeout=2,
        reconnect_timeout=1,  # then the next request dials anew, instead of after a growing delay
        configure=configure,
        check=check,
        name=application,
    )
    return made


def read_numerics_as_text(conn: AsyncConnection[Any]) -> None:
    """Make numerics arrive as str, digit by digit what the server prints: cheaper than Decimal, and ready for JSON."""
    conn.adapters.register_loader("numeric", TextLoader)


@contextmanager
def translated() -> Iterator[None]:
    """Raise psycopg's errors as ours: DatabaseUnavailable for a lost server, DatabaseRefused for rights and names.

    Errors that tell of a fault of our own (a wrong query) pass through as they are.
    """
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseRefused(f"{_sentence(error)}: connect as a role that may") from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise DatabaseRefused(f"{_sentence(error)}: run `tickwick migrate` first") from error
    except (PoolTimeout, psycopg.errors.QueryCanceled, psycopg.errors.ReadOnlySqlTransaction) as error:
        raise DatabaseUnavailable(_sentence(error)) from error
    except _TIMED_OUT as error:
        raise DatabaseUnavailable(_sentence(error)) from error
    except psycopg.OperationalError as error:
        raise (DatabaseRefused if _refused(error) else DatabaseUnavailable)(_sentence(error)) from error


# The server ended the session for its silence; psycopg counts these among internal errors.
_TIMED_OUT: Final = (psycopg.errors.IdleInTransactionSessionTimeout, psycopg.errors.TransactionTimeout)

_REFUSALS: Final = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "not permitted to log in",
)


def _refused(error: psycopg.OperationalError) -> bool:
    # A failed connection carries no SQLSTATE, only the server's message.
    return error.sqlstate is None and any(text in str(error) for text in _REFUSALS)


def _sentence(error: BaseException) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return first.removesuffix(".")


def table(name: str) -> sql.Identifier:
    """A table of the schema market, quoted."""
    return sql.Identifier("market", name)
