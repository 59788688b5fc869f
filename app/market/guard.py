"""Who may change what the market tracks: whoever has the server's one token."""

import hmac
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler


def administrator(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A guard: 403 where the server has no token, 401 where the request's is absent or wrong."""
    token: str = connection.app.state.admin_token
    if not token:
        raise PermissionDeniedException("nobody may, since the server has no token: set TICKWICK_ADMIN_TOKEN")
    scheme, _space, given = connection.headers.get("authorization", "").partition(" ")
    # Headers are decoded as Latin-1; the comparison takes as long whatever the request guessed right.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        wanted = "give the server's token: Authorization: Bearer …"
        raise NotAuthorizedException(wanted, headers={"WWW-Authenticate": 'Bearer realm="tickwick"'})
