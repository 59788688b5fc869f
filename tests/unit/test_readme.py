"""The README's tables are those of the code."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from app.cli import cli
from app.cli.database import ROLES
from app.market.intervals import Interval
from app.settings import Settings
from app.stream import protocol
from sql.engine import Engine

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_settings_table_has_a_row_for_each_setting_as_the_code_describes_it() -> None:
    rows = re.findall(r"^\| `--.+ \|$", README, re.MULTILINE)
    assert rows == [row(field) for field in msgspec.structs.fields(Settings)]


def row(field: Any) -> str:
    text = next(meta.description for meta in get_args(field.type)[1:] if meta.description)
    default = "" if field.default == "" else f"`{field.default}`"
    return f"| `--{field.name.replace('_', '-')}` | `TICKWICK_{field.name.upper()}` | {default} | {text} |"


def test_metrics_table_has_a_row_for_each_metric_as_the_code_describes_it() -> None:
    sources = [(ROOT / path).read_text() for path in ("app/ops.py", "ingest/metrics.py")]
    metrics = [pair for text in sources for pair in re.findall(r'\("([a-z_]+)", "([^"]+)", lambda', text)]
    assert len(metrics) > 10
    assert re.findall(r"^\| `tickwick_([a-z_]+)` \| (.+) \|$", README, re.MULTILINE)[-len(metrics) :] == metrics


def test_intervals_engines_and_roles_are_all_named() -> None:
    assert f"Intervals are `{' '.join(Interval)}`." in README
    for name in [*Engine, *(f"tickwick_{role}" for role in ROLES)]:
        assert f"| `{name}` |" in README


def test_stream_every_event_and_every_close_code_in_use_is_described() -> None:
    structs = [kind for kind in vars(protocol).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    tags = {str(kind.__struct_config__.tag) for kind in structs if kind.__struct_config__.tag_field == "type"}
    described = re.findall(r"^\| ((?:`[a-z]+`(?:, )?)+) \|", README, re.MULTILINE)
    assert {tag for tag in tags if tag.islower()} <= {
        name for cell in described for name in re.findall(r"`([a-z]+)`", cell)
    }
    used = "".join(path.read_text() for path in (ROOT / "app" / "stream").glob("*.py"))
    for code in protocol.Close:
        assert (f"| {code:d} |" in README) is (f"Close.{code.name}" in used)


def test_stream_limits_are_those_enforced() -> None:
    messages, subscriptions = protocol.MAX_MESSAGES_PER_SECOND, protocol.MAX_SUBSCRIPTIONS
    size = f"{protocol.MAX_MESSAGE_BYTES // 1024} KiB"
    assert (
        f"hold {subscriptions:,} subscriptions, and send {messages} messages a second of at most {size} each" in README
    )


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_document_names_commands_and_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    called = set(re.findall(r"(?:^|`|bin/)tickwick ([a-z]+)", text, re.MULTILINE))
    assert called <= set(cli.commands)
    assert all((ROOT / path).is_file() for path in re.findall(r"\]\(((?!https?:)[^)]+)\)", text))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", text, re.MULTILINE)) <= {
        pair for name in targets for pair in ((name, ""), ("", name))
    }
