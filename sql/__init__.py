"""SQL and nothing else: named queries, migrations, and the choice of the storage engine. Imports nothing of ours.

`queries/<domain>.sql` holds blocks that begin with `-- name: latest_candles`, followed by a comment (what, which index,
how many rows) and one statement. `load("market")` returns them by name.
"""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: ([a-z_0-9]+)$", re.MULTILINE)


@cache
def load(domain: str) -> dict[str, LiteralString]:
    """The named queries of `queries/<domain>.sql`, in the order of the file; a KeyError tells one that is not there."""
    text = (files(__name__) / "queries" / f"{domain}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"queries/{domain}.sql holds a name twice")
    # The files ship with the package, so their text is as trusted as a literal.
    statements = [cast("LiteralString", body.strip().removesuffix(";")) for body in bodies]
    return dict(zip(names, statements, strict=True))
