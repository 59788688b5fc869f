"""The migration files, and the choice of the engine."""

from pathlib import Path

import pytest

import sql.migrate
from sql.engine import Engine, EngineRefused, Server, choose
from sql.migrate import migrations

FILES = sorted(Path(sql.migrate.__file__).parent.joinpath("migrations").iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_migration_header_tells_why_which_locks_and_how_to_undo(file: Path) -> None:
    header = file.read_text(encoding="utf-8").split("\n\n")[0]
    fields = [line.removeprefix("-- ").split(":")[0] for line in header.splitlines() if line[3:4].isupper()]
    assert set(fields) >= {"Why", "Lock", "Undo"}
    assert all(line.startswith("--") for line in header.splitlines())


@pytest.mark.parametrize("storage", Engine)
def test_migrations_are_numbered_without_a_hole_and_alike_on_each_engine(storage: Engine) -> None:
    found = migrations(storage)
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    assert [m.name for m in found] == [m.name for m in migrations(Engine.POSTGRES)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_create_roles.sql", "notes.txt"], "is not named"),
        (["0001_Create_Roles.sql"], "is not named"),
        (["0001_create_roles.sql", "0003_create_ticks.sql"], "are not numbered 1 to 2"),
        (["0001_create_roles.sql", "0001_create_ticks.sql"], "stands twice"),
        (["0001_create_roles.mysql.sql"], "mysql"),
    ],
)
def test_migrations_refuse_files_that_are_misnamed_or_misnumbered(
    names: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "migrations").mkdir()
    for name in names:
        (tmp_path / "migrations" / name).write_text("SELECT 1")
    monkeypatch.setattr(sql.migrate, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=message):
        migrations(Engine.POSTGRES)


def test_migration_for_some_engines_is_left_out_on_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_create_roles.postgres.timescaledb-apache.sql").write_text("SELECT 1")
    (tmp_path / "migrations" / "0001_make_roles.timescaledb.sql").write_text("-- As: writer\nSELECT 2")
    monkeypatch.setattr(sql.migrate, "files", lambda _: tmp_path)
    assert [(m.name, m.role) for m in migrations(Engine.TIMESCALEDB)] == [("make_roles", "writer")]
    assert [(m.name, m.role) for m in migrations(Engine.TIMESCALEDB_APACHE)] == [("create_roles", "owner")]


@pytest.mark.parametrize(
    ("server", "wanted", "chosen", "reason"),
    [
        (Server(18, None, None), None, Engine.POSTGRES, "the server has no extension timescaledb"),
        (Server(15, "2.19.0", "timescale"), None, Engine.TIMESCALEDB, "TimescaleDB 2.19.0 with the Community licence"),
        (Server(17, "2.29.2-dev", "timescale"), Engine.TIMESCALEDB, Engine.TIMESCALEDB, "2.29.2-dev"),
        (Server(17, "2.29.2", "apache"), None, Engine.TIMESCALEDB_APACHE, "with the licence 'apache'"),
        (Server(17, "2.29.2", "timescale"), Engine.TIMESCALEDB_APACHE, Engine.TIMESCALEDB_APACHE, "2.29.2"),
        (Server(17, "2.29.2", "timescale"), Engine.POSTGRES, Engine.POSTGRES, "it was asked for"),
        (Server(17, "2.29.2", None), None, Engine.POSTGRES, "not in the server's shared_preload_libraries"),
        (Server(16, "2.1.0", "timescale"), Engine.POSTGRES, Engine.POSTGRES, "it was asked for"),
    ],
)
def test_choose_takes_the_best_engine_or_the_one_asked_for_and_says_why(
    server: Server, wanted: Engine | None, chosen: Engine, reason: str
) -> None:
    choice = choose(server, wanted)
    assert choice.engine is chosen
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("server", "wanted", "message"),
    [
        (Server(14, None, None), None, "PostgreSQL 14 is too old: 15 or newer is needed"),
        (Server(14, "2.29.2", "timescale"), Engine.POSTGRES, "PostgreSQL 14 is too old"),
        (Server(16, "2.18.2", "timescale"), None, "TimescaleDB 2.18.2 is too old: 2.19 or newer is needed"),
        (Server(16, None, None), Engine.TIMESCALEDB, "needs the extension timescaledb"),
        (Server(16, None, None), Engine.TIMESCALEDB_APACHE, "needs the extension timescaledb"),
        (Server(16, "2.29.2", None), Engine.TIMESCALEDB, "shared_preload_libraries"),
        (Server(16, "2.29.2", "apache"), Engine.TIMESCALEDB, "timescaledb.license is 'apache'"),
    ],
)
def test_choose_refuses_a_server_that_cannot_carry_the_engine(
    server: Server, wanted: Engine | None, message: str
) -> None:
    with pytest.raises(EngineRefused, match=message):
        choose(server, wanted)
