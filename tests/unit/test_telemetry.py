"""What Prometheus reads of a process."""

from prometheus_client.exposition import generate_latest

from app.telemetry import Histogram, metrics


def values(text: bytes) -> dict[str, float]:
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_histogram_counts_values_up_to_and_with_each_bound() -> None:
    histogram = Histogram([0.1, 1.0])
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    found = values(generate_latest(metrics([("lag_seconds", "Lag.", lambda: histogram)])))
    buckets = {bound: found[f'tickwick_lag_seconds_bucket{{le="{bound}"}}'] for bound in ("0.1", "1.0", "+Inf")}
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}
    assert found["tickwick_lag_seconds_count"] == 4
    assert found["tickwick_lag_seconds_sum"] == 7.65


def test_metrics_are_counters_and_gauges_by_their_names_and_tell_of_the_process() -> None:
    page = generate_latest(metrics([("ticks_total", "Ticks.", lambda: 3), ("depth", "Depth.", lambda: True)]))
    found = values(page)
    assert (found["tickwick_ticks_total"], found["tickwick_depth"]) == (3, 1)
    assert b"# TYPE tickwick_ticks_total counter" in page
    assert b"# TYPE tickwick_depth gauge" in page
    assert found["process_resident_memory_bytes"] > 1_000_000
