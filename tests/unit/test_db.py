"""Driver errors become ours in one place."""

import psycopg
import pytest

from app.db import translated
from app.errors import DatabaseRefused, DatabaseUnavailable

AWAY = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.IdleSessionTimeout,
    psycopg.errors.QueryCanceled,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.TransactionTimeout,
    psycopg.OperationalError,
)


@pytest.mark.parametrize("error", AWAY)
def test_errors_of_a_server_that_went_away_say_so(error: type[psycopg.Error]) -> None:
    """Regression: a session ended for its silence within a transaction counted as a fault of ours."""
    with pytest.raises(DatabaseUnavailable), translated():
        raise error("it is gone.\nmore")


@pytest.mark.parametrize("error", [psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable])
def test_errors_of_rights_and_names_are_refusals(error: type[psycopg.Error]) -> None:
    with pytest.raises(DatabaseRefused), translated():
        raise error("no")


def test_faults_of_our_own_pass_through() -> None:
    with pytest.raises(psycopg.errors.SyntaxError), translated():
        raise psycopg.errors.SyntaxError("what")
