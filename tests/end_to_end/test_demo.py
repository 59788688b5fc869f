"""`tickwick demo`, unattended: up with moving candles, stopped in time, its data kept."""

import json
import os
import shlex
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import Demo, demo, open_folder, shown, tickwick

BTC = "SIM:BTCUSDT"


def get(running: Demo, path: str) -> Any:
    with urllib.request.urlopen(running.address + path, timeout=10) as response:  # noqa: S310  # our own http address
        return json.load(response)


def newest_id(running: Demo) -> int:
    return int(get(running, f"/api/v1/ticks/{BTC}?limit=1")["ticks"][0]["trade_id"])


def wait_for_trades(running: Demo, above: int) -> int:
    deadline = time.monotonic() + 20
    while (newest := newest_id(running)) <= above:
        assert time.monotonic() < deadline, running.output
        time.sleep(0.1)
    return newest


def test_demo_is_up_moves_stops_in_time_and_keeps_its_data() -> None:
    with open_folder() as folder:
        data = Path(folder, "data")
        with demo(data, "--history", "0.1") as first:
            candles = get(first, f"/api/v1/candles/{BTC}?limit=10")["candles"]
            assert len(candles) >= 5
            last = wait_for_trades(first, newest_id(first))
            assert get(first, "/readyz")["ready"] is True
            code, seconds = first.stop(signal.SIGINT)
            assert (code, seconds < 5) == (0, True), first.output
            assert "Traceback" not in first.output
        with demo(data, "--history", "0.1") as second:
            ticks = get(second, f"/api/v1/ticks/{BTC}?after_id={last - 1}&limit=1")["ticks"]
            assert ticks[0]["trade_id"] == last
            wait_for_trades(second, last)
            code, seconds = second.stop(signal.SIGTERM)
            assert (code, seconds < 5) == (0, True), second.output


def test_demo_prints_four_commands_that_work() -> None:
    with open_folder() as folder, demo(Path(folder, "data"), "--history", "0.05") as running:
        curl = shown(r"(curl '[^\n]+')", running.output)
        url = shlex.split(curl)[1]
        assert len(get(running, url.removeprefix(running.address))["candles"]) == 3
        psql = shown(r"(\S*psql [^\n]+)", running.output)
        result = subprocess.run(shlex.split(psql), capture_output=True, text=True, timeout=20, check=True)
        assert BTC in result.stdout
        websocket = shown(r"(\(echo '[^\n]+)", running.output)
        result = subprocess.run(["sh", "-c", websocket], capture_output=True, text=True, timeout=30, check=True)
        assert '"type":"trade"' in result.stdout
        doctor = shown(r"(\S+ -m app doctor [^\n]+)", running.output)
        result = subprocess.run(shlex.split(doctor), capture_output=True, text=True, timeout=30, check=False)
        assert result.returncode == 0, result.stdout


def test_demo_port_in_use_is_one_sentence_and_exit_code_2() -> None:
    with open_folder() as folder, demo(Path(folder, "data"), "--history", "0") as running:
        port = running.address.rsplit(":", 1)[1]
        second = tickwick("demo", "--port", port, "--no-browser", "--data-dir", str(Path(folder, "other")))
        assert second.returncode == 2
        assert f"port {port}" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_demo_second_start_on_the_same_data_while_it_runs_is_refused(signal_number: signal.Signals) -> None:
    with open_folder() as folder, demo(Path(folder, "data"), "--history", "0") as running:
        second = tickwick("demo", "--port", "0", "--no-browser", "--data-dir", str(Path(folder, "data")))
        assert second.returncode == 2
        assert len(second.stderr.strip().splitlines()) == 1
        assert running.stop(signal_number)[0] == 0


def test_demo_whose_database_is_killed_ends_with_one_sentence() -> None:
    with open_folder() as folder, demo(Path(folder, "data"), "--history", "0") as running:
        postmaster = int(Path(folder, "data", "cluster", "postmaster.pid").read_text().splitlines()[0])
        os.kill(postmaster, signal.SIGKILL)
        code = running.wait(20)
        assert code == 2
        assert "tickwick: the demo's database ended by itself" in running.output
        assert "Traceback" not in running.output
