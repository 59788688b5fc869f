"""Logs and metrics."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.settings import Settings

Value = tuple[str, str, Callable[[], float]]
"""A metric's name without prefix, its help, and how to read it; names that end in `_total` count."""

PREFIX: Final = "tickwick_"


def configure_logging(settings: Settings) -> None:
    """Log to standard error: text on a terminal, JSON elsewhere, unless the settings say which."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # What libraries log comes out in the same form.
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter
    handler.setFormatter(formatter(foreign_pre_chain=shared, processors=[formatter.remove_processors_meta, *last]))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class _Values(Collector):
    def __init__(self, values: Iterable[Value]) -> None:
        self._values = list(values)

    def collect(self) -> Iterator[Metric]:
        for name, text, read in self._values:
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(PREFIX + name.removesuffix("_total"), text, value=read())


def metrics(values: Iterable[Value]) -> CollectorRegistry:
    """A registry that reads plain counters when it is scraped, so that the hot path counts nothing twice."""
    registry = CollectorRegistry()
    registry.register(_Values(values))
    return registry
