"""A private PostgreSQL server for the demo and the tests: make a cluster, start it, stop it.

The server belongs to one data directory and to one process. Local programs reach it through a unix socket in a
directory that only its owner may enter, without a password; others on the same machine through TCP on 127.0.0.1 with a
random password. It stops with its `Server`, and also when the owning process is killed.
"""

import contextlib
import fcntl
import itertools
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import structlog
from psycopg.conninfo import make_conninfo

from app.errors import OperatorError
from app.installations import Installation, find_installation, output, timescaledb_installation, wheel_installation
from app.server_user import server_user

__all__ = ["Installation", "Server", "find_installation", "timescaledb_installation", "wheel_installation"]

log = structlog.get_logger()

START_SECONDS = 60.0  # as pg_ctl waits: recovery after a crash takes its time
RETRY_SECONDS = 5.0  # for what passes by itself: another's port, the memory of a killed server's last children
STOP_STEPS = ((signal.SIGINT, 2.5), (signal.SIGQUIT, 1.0), (signal.SIGKILL, 0.4))  # fast, immediate, by force: < 4 s
MAX_SOCKET_DIR = 103 - len("/.s.PGSQL.65535")  # macOS takes 103 bytes, Linux 107

# Waits for the end of its standard input, which comes when the process that holds the other end is gone.
WATCH = 'read -r _; kill -INT "$0"'


class Record(msgspec.Struct, frozen=True):
    """What a data directory was last started with (`server.json`); marks the directory as ours."""

    version: int
    timescaledb: str | None
    port: int


class Server:
    """A PostgreSQL server with a data directory of its own, which runs from `start` to `stop`.

    While it runs, the directory is locked: a second owner gets an OperatorError. A server that a killed owner left
    behind is stopped and the data taken over. `settings` override the server's configuration, which is written anew at
    each start; what `ALTER SYSTEM` sets is kept. Without `port`, the last one is taken again if it is free. Where
    `settings` turn fsync off, making the cluster does not sync either.

    In the directory: `cluster/` (PostgreSQL's own), `postgresql.conf`, `password` (of the superuser, for TCP),
    `server.json`, `server.log`, `server.log.1` (of the run before), `lock`, `socket/`. All is readable by its owner
    alone. PostgreSQL refuses to run as root, so root runs it as `postgres`, or as `pgserver` where there is no such
    user; then `cluster/` and `socket/` are that user's, and the rest stays root's.
    """

    def __init__(
        self,
        installation: Installation,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.installation = installation
        self.data_dir = data_dir.expanduser().resolve()
        self.log_file = self.data_dir / "server.log"
        self.port = port or 0
        self._fixed_port = port
        self._settings = dict(settings or {})
        self._cluster = self.data_dir / "cluster"
        self._socket_dir = self.data_dir / "socket"
        self._user: pwd.struct_passwd | None = None
        self._closing = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the cluster if there is none, and return once the server accepts connections.

        Raises OperatorError, with nothing left running, where the directory is not ours, in use, of another version or
        out of reach, where the port is taken, or where PostgreSQL does not start.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._claim(stack)
                last = self._last_record()
                self._user = server_user(self._cluster, self.installation)
                self._stop_leftover()
                self._make_cluster()
                self._make_socket_dir(stack)
                self._launch(stack, last.port if last else 0)
            except OSError as error:
                raise OperatorError(f"the database in {self.data_dir} cannot be started: {error}") from error
            self._closing = stack.pop_all()
        log.info("started the database", installation=self.installation.describe(), port=self.port)

    def stop(self) -> None:
        """Stop the server: fast, then immediately, then by force; takes 4 s at most. Does nothing where none runs."""
        self._closing.close()

    def discard(self) -> None:
        """Delete the data directory with all that is in it; a server that a killed owner left there is stopped.

        Raises OperatorError where the directory is not ours or in use.
        """
        with contextlib.ExitStack() as stack:
            if self.data_dir.exists():
                self._claim(stack)
                self._stop_leftover()
                shutil.rmtree(self.data_dir)

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """How libpq reaches the server through its unix socket; needs no password."""
        return make_conninfo(host=str(self._socket_dir), port=self.port, user=user, dbname=database)

    def tcp_dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """How libpq reaches the server on 127.0.0.1, with the superuser's password: a secret."""
        password = (self.data_dir / "password").read_text()
        return make_conninfo(host="127.0.0.1", port=self.port, user=user, dbname=database, password=password)

    def psql_command(self, database: str = "postgres") -> str:
        """A command line for a person to paste."""
        psql = self.installation.bin_dir / "psql"
        place = ["-h", str(self._socket_dir), "-p", str(self.port), "-U", "postgres", database]
        return shlex.join([str(psql) if psql.is_file() else "psql", *place])

    def _claim(self, stack: contextlib.ExitStack) -> None:
        """Lock the data directory, new or ours."""
        try:
            self.data_dir.mkdir(mode=0o700 if os.geteuid() else 0o711, parents=True, exist_ok=True)
            names = {path.name for path in self.data_dir.iterdir()}
        except OSError as error:
            raise OperatorError(f"{self.data_dir} cannot hold the data: {error.strerror}") from error
        if self.data_dir.stat().st_uid != os.geteuid():
            raise OperatorError(f"{self.data_dir} belongs to another user: name another directory with --data-dir")
        if "server.json" not in names and names - {"lock"}:
            raise OperatorError(f"{self.data_dir} holds other files: name a new or empty directory with --data-dir")
        lock = stack.enter_context((self.data_dir / "lock").open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(
                f"{self.data_dir} is in use by another tickwick: stop that, or name another directory with --data-dir"
            ) from error

    def _last_record(self) -> Record | None:
        """The record of a cluster that this installation can run, or None where there is no cluster yet."""
        if not self._cluster.exists():
            return None
        ways = "begin anew with --fresh, or name its installation with --postgres-bin"
        try:
            record = msgspec.json.decode((self.data_dir / "server.json").read_bytes(), type=Record)
        except msgspec.DecodeError as error:
            raise OperatorError(f"{self.data_dir / 'server.json'} is damaged: begin anew with --fresh") from error
        if record.version != self.installation.version:
            made_by = f"PostgreSQL {record.version}"
        elif record.timescaledb and not self.installation.timescaledb:
            made_by = f"TimescaleDB {record.timescaledb}"
        else:
            return record
        raise OperatorError(
            f"the data in {self.data_dir} needs {made_by}, and this is {self.installation.describe()}: {ways}"
        )

    def _stop_leftover(self) -> None:
        """Stop the server of an owner that was killed; remove the pid file of one that is no more."""
        pid_file = self._cluster / "postmaster.pid"
        pid = _pid_in(pid_file)
        if pid is None:
            return
        if _is_server(pid, self._cluster):
            log.warning("stopped a database left running by a killed process", pid=pid, data_dir=str(self.data_dir))
            _shut_down(lambda step: os.kill(pid, step), lambda: not _is_server(pid, self._cluster))
        pid_file.unlink(missing_ok=True)  # else it would block the start where its pid now is another process's

    def _make_cluster(self) -> None:
        """Run initdb in a directory of its own and rename that, so that an interrupted run leaves no half cluster."""
        self._write("server.json", msgspec.json.encode(self._record()))
        if self._cluster.exists():
            return
        raw = self.data_dir / "cluster.new"
        shutil.rmtree(raw, ignore_errors=True)
        raw.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        self._write("password", password.encode())
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir) as password_file:
            password_file.write(password)
            password_file.flush()
            self._give(raw, Path(password_file.name))
            command = [str(self.installation.bin_dir / "initdb"), "--pgdata", str(raw), "--pwfile", password_file.name]
            options = ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8"]
            done = subprocess.run(  # noqa: S603  # our own arguments
                [*command, *options, *self._initdb_options()], capture_output=True, text=True, **self._process_options()
            )
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[:1]
            raise OperatorError(f"PostgreSQL could not make its files in {self.data_dir}: {' '.join(reason)}")
        raw.rename(self._cluster)

    def _initdb_options(self) -> Iterator[str]:
        if self.installation.version >= 17:  # the same order and letters on every operating system, from 17 on
            yield from ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        else:
            yield from ("--locale=C", "--lc-ctype=C.UTF-8" if os.uname().sysname == "Linux" else "--lc-ctype=C")
        if self._settings.get("fsync") == "off":
            yield "--no-sync"

    def _make_socket_dir(self, stack: contextlib.ExitStack) -> None:
        """In the data directory if the socket's whole path is short enough, else a private temporary one."""
        self._socket_dir = self.data_dir / "socket"
        shutil.rmtree(self._socket_dir, ignore_errors=True)  # a killed server's lock file would block the start
        if len(os.fsencode(self._socket_dir)) > MAX_SOCKET_DIR:
            self._socket_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tickwick-")))
        else:
            self._socket_dir.mkdir(mode=0o700)
        self._give(self._socket_dir)

    def _launch(self, stack: contextlib.ExitStack, last_port: int) -> None:
        """Run the server until it says that it is ready; try again for a while where the obstacle passes by itself."""
        deadline = time.monotonic() + RETRY_SECONDS
        for attempt in itertools.count():
            self.port = self._choose_port(0 if attempt else last_port)
            self._write("postgresql.conf", self._configuration().encode(), mode=0o644)
            self._write("server.json", msgspec.json.encode(self._record()))
            with contextlib.ExitStack() as running:
                if self._run(running):
                    stack.push(running.pop_all())
                    return
            reason = self._reason()
            passing = "pre-existing shared memory" in reason or "could not create any TCP/IP sockets" in reason
            if not passing or time.monotonic() > deadline:
                raise OperatorError(f"PostgreSQL did not start ({reason}); its log is {self.log_file}")
            time.sleep(0.1)

    def _run(self, running: contextlib.ExitStack) -> bool:
        """Start the process and its watcher; true when it is ready, false when it ended."""
        with contextlib.suppress(FileNotFoundError):
            self.log_file.replace(self.log_file.with_name("server.log.1"))
        with _private_file(self.log_file) as log_file:
            command = [str(self.installation.bin_dir / "postgres"), "-D", str(self._cluster)]
            process = subprocess.Popen(  # noqa: S603  # our own arguments
                [*command, "-c", f"config_file={self.data_dir / 'postgresql.conf'}"],
                stdout=log_file,
                stderr=subprocess.STDOUT,
                **self._process_options(),
            )
        self._process = process
        running.callback(_shut_down, process.send_signal, lambda: process.poll() is not None)
        watcher = subprocess.Popen(  # noqa: S603  # our own arguments
            ["/bin/sh", "-c", WATCH, str(process.pid)],
            **{**self._process_options(), "stdin": subprocess.PIPE},
            stderr=subprocess.DEVNULL,
        )
        running.enter_context(watcher)
        running.callback(watcher.kill)
        ready = _wait_until(lambda: process.poll() is not None or _is_ready(self._cluster), START_SECONDS)
        return ready and process.poll() is None

    def _reason(self) -> str:
        """What the log says of why the server did not start: the fatal line, and the one before, which is often why."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        fatal = next((number for number, line in enumerate(lines) if "FATAL:" in line), len(lines) - 1)
        return "; ".join(line.rpartition(":  ")[2] for line in lines[max(fatal - 1, 0) : fatal + 1])

    def _choose_port(self, last: int) -> int:
        if self._fixed_port:
            if not _is_free(self._fixed_port):
                raise OperatorError(f"port {self._fixed_port} for the database is in use: name another one")
            return self._fixed_port
        if last and _is_free(last):
            return last
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return int(listener.getsockname()[1])

    def _configuration(self) -> str:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._socket_dir),
            "max_connections": "100",
            "max_locks_per_transaction": "256",  # a query over many chunks or partitions locks each
            "shared_buffers": "256MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "lc_messages": "C",
            "jit": "off",  # costs more than it saves in queries of milliseconds
            "log_checkpoints": "off",
            "log_min_error_statement": "panic",  # statements may hold secrets
        }
        if self.installation.timescaledb:
            settings |= {
                "shared_preload_libraries": "timescaledb",
                "timescaledb.telemetry_level": "off",
                "timescaledb.max_background_workers": "16",  # a scheduler for each database, and its jobs
                "max_worker_processes": "32",  # those, the launcher, and parallel queries
            }
        settings |= self._settings
        lines = ["# Written at each start. What ALTER SYSTEM sets comes after this and is kept."]
        for name, value in settings.items():
            quoted = value.replace("'", "''")
            lines.append(f"{name} = '{quoted}'")
        return "\n".join(lines) + "\n"

    def _record(self) -> Record:
        return Record(self.installation.version, self.installation.timescaledb, self.port)

    def _write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        """Replace one of our files as a whole."""
        fresh = self.data_dir / f"{name}.new"
        with _private_file(fresh) as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        fresh.replace(self.data_dir / name)

    def _give(self, *paths: Path) -> None:
        if self._user:
            for path in paths:
                os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _process_options(self) -> dict[str, Any]:
        """A session of its own, which the terminal's Ctrl-C does not reach; few privileges; no settings of ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        options: dict[str, Any] = {
            "cwd": self.data_dir,
            "env": kept | {"LC_ALL": "C", "TZ": "UTC"},
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
        }
        if self._user:
            options |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return options


def _private_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _pid_in(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _is_ready(cluster: Path) -> bool:
    """Whether the server says in the eighth line of its pid file that it accepts connections."""
    try:
        return (cluster / "postmaster.pid").read_text().split("\n")[7].strip() == "ready"
    except (FileNotFoundError, IndexError):
        return False


def _is_server(pid: int, cluster: Path) -> bool:
    """Whether the process runs the server of that cluster: a pid alone may be another process's by now."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        command = output(["ps", "-o", "command=", "-p", str(pid)])
    return f" -D {cluster} " in command.replace("\0", " ") + " "


def _shut_down(send: Callable[[int], None], ended: Callable[[], bool]) -> None:
    for step, seconds in STOP_STEPS:
        with contextlib.suppress(ProcessLookupError):
            send(step)
        if _wait_until(ended, seconds):
            return


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Look every 10 ms; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return true
