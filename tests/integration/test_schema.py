from tests.databases import Database


def test_database_is_migrated(database: Database) -> None:
    assert database.execute("SELECT engine FROM ops.engine") == [(str(database.engine),)]
