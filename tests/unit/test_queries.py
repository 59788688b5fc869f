"""The loader of named queries, and the form of the files."""

import re
from pathlib import Path

import pytest

import sql

DOMAINS = sorted(file.stem for file in Path(sql.__file__).parent.joinpath("queries").iterdir())


@pytest.mark.parametrize("domain", DOMAINS)
def test_load_gives_each_block_one_statement_without_its_end(domain: str) -> None:
    queries = sql.load(domain)
    assert queries
    for name, query in queries.items():
        code = re.sub(r"--.*", "", query).strip()
        assert code, name
        assert ";" not in code, name


def test_load_answers_a_key_error_for_a_query_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        sql.load("market")["drop_everything"]


def test_load_refuses_a_name_that_stands_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "twice.sql").write_text("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")
    monkeypatch.setattr(sql, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="holds a name twice"):
        sql.load("twice")
