"""Time zones as REST and the stream read them."""

from zoneinfo import available_timezones

import pytest

from app.market.zones import zone_named, zone_text


@pytest.mark.parametrize("text", ["UTC", "Europe/Berlin", "Etc/GMT+5", "+05:30", "-00:30", "+14:00", "-14:00"])
def test_zone_is_written_as_it_is_read(text: str) -> None:
    assert zone_text(zone_named(text)) == text


@pytest.mark.parametrize(("text", "canonical"), [("z", "UTC"), ("utc", "UTC"), ("-00:00", "UTC"), ("05:45", "+05:45")])
def test_zone_has_one_text(text: str, canonical: str) -> None:
    assert zone_text(zone_named(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["localtime", "posixrules", "posix/UTC", "right/UTC", "Factory", "posix", "", "\0", "../UTC", "+14:01", "-15:00"],
)
def test_text_that_is_no_zone_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither UTC, nor an IANA time zone.* -14:00 to \+14:00"):
        zone_named(text)


def test_every_place_of_the_database_is_a_zone() -> None:
    for name in available_timezones() - {"Factory", "localtime", "posixrules"}:
        assert zone_named(name)
