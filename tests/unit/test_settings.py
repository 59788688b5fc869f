"""Settings: what must not be shown is not."""

import re

import msgspec

from app.settings import SECRET, Settings


def test_every_setting_that_is_secret_by_its_name_is_hidden() -> None:
    names = {field.name for field in msgspec.structs.fields(Settings)}
    assert {name for name in names if re.search("dsn|key|token|password|secret", name)} == SECRET


def test_secrets_are_in_no_representation() -> None:
    settings = msgspec.structs.replace(Settings(), **dict.fromkeys(SECRET, "0f7e"))
    assert "0f7e" not in f"{settings!r} {settings} {[*settings.__rich_repr__()]}"
    assert "'***'" in repr(settings)
