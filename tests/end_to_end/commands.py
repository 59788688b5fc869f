"""The command line as a user runs it: a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 90.0


def tickwick(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **environment},
        check=False,
    )


class Demo:
    """A running `tickwick demo`; `output` is what it has printed so far."""

    def __init__(self, port: int, data_dir: Path, *arguments: str) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.output = ""
        self._up = threading.Event()
        options = ("--port", str(port), "--data-dir", str(data_dir), "--no-browser", *arguments)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app", "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_up(self) -> None:
        assert self._up.wait(TIMEOUT), self.output
        assert "Tickwick is up" in self.output, self.output

    def stop(self, number: signal.Signals) -> tuple[int, float]:
        """The exit code after a signal, and how many seconds it took."""
        started = time.monotonic()
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._reader.join(5)
        return code, time.monotonic() - started

    def wait(self, seconds: float) -> int:
        """The exit code of a demo that ends by itself."""
        code = self._process.wait(seconds)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if "Ctrl-C" in line:
                self._up.set()
        self._up.set()


@contextmanager
def demo(data_dir: Path, *arguments: str) -> Iterator[Demo]:
    """A demo that is up, killed at the end if it still runs."""
    running = Demo(free_port(), data_dir, *arguments)
    try:
        running.wait_until_up()
        yield running
    finally:
        running.kill()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that another user may enter: where root runs the tests, the server is somebody else's."""
    with tempfile.TemporaryDirectory(prefix="tickwick-demo-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shown(pattern: str, text: str) -> str:
    """What a pattern's first group finds in a command's output."""
    found = re.search(pattern, text)
    assert found, text
    return found[1]
