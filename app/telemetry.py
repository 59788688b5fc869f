"""Logs and metrics."""

import logging
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.settings import Settings

PREFIX: Final = "tickwick_"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Histogram:
    """How often values fell between some bounds: half a microsecond for each, and a few hundred bytes for ever.

    Filled by one thread; a scrape from another may find it an observation behind.
    """

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = [*bounds]
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """How many values were at most each bound, as Prometheus wants it."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return [*zip(bounds, map(float, accumulate(self._counts)), strict=True)]

    @property
    def sum(self) -> float:
        return self._sum


Value = tuple[str, str, Callable[[], float | Histogram]]
"""A metric's name without prefix, its help, and how to read it; names that end in `_total` count."""


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
            value = read()
            if isinstance(value, Histogram):
                yield HistogramMetricFamily(PREFIX + name, text, buckets=value.buckets(), sum_value=value.sum)
                continue
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(PREFIX + name.removesuffix("_total"), text, value=value)


def metrics(values: Iterable[Value]) -> CollectorRegistry:
    """A registry that reads plain counters when it is scraped, so that the hot path counts nothing twice.

    Beside them it tells of the process: memory, CPU time, open files.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Values(values))
    return registry
