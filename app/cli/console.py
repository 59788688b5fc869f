"""What all commands share: flags out of the settings, the console, the event loop."""

import math
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, get_args

import click
import msgspec
import uvloop
from rich.console import Console

from app import settings
from app.settings import Settings
from app.telemetry import configure_logging

Command = TypeVar("Command", bound=Callable[..., Any])

LOGGING: Final = ("log_level", "log_format")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Number(click.FloatRange):
    """As FloatRange, but not `nan`, which no comparison rules out, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def settings_options(*names: str) -> Callable[[Command], Command]:
    """The flags of these settings, with the help, default and environment variable that `Settings` declares."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = fields[name]
            text = next(meta.description for meta in get_args(field.type)[1:] if meta.description)
            shown = f"  [env: TICKWICK_{name.upper()}; default: {field.default if field.default != '' else 'none'}]"
            command = click.option("--" + name.replace("_", "-"), name, metavar="VALUE", help=text + shown)(command)
        return command

    return decorate


def load(given: dict[str, Any], *, quiet: bool = False) -> Settings:
    """The settings of a command, with logging set up; `quiet` logs errors alone where nobody asks for more."""
    loaded = settings.load(given, os.environ)
    if quiet and given.get("log_level") is None and "TICKWICK_LOG_LEVEL" not in os.environ:
        loaded = msgspec.structs.replace(loaded, log_level="error")
    configure_logging(loaded)
    return loaded


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)
