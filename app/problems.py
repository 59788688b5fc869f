"""Errors as RFC 9457 problem documents, in one table."""

import re
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from app.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    InvalidParameter,
    NothingThere,
    TickwickError,
    UnknownSymbol,
)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 2
_log = structlog.get_logger()

STATUS: Final[dict[type[TickwickError], HTTPStatus]] = {
    InvalidParameter: HTTPStatus.BAD_REQUEST,
    UnknownSymbol: HTTPStatus.NOT_FOUND,
    NothingThere: HTTPStatus.NOT_FOUND,
    DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseRefused: HTTPStatus.SERVICE_UNAVAILABLE,
}


class FieldError(msgspec.Struct):
    """What is wrong with one parameter, and what would be right."""

    field: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem document. `near` lists symbols close to one that is unknown."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    errors: list[FieldError] = []
    near: list[str] = []


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response[Any]:
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def on_tickwick_error(_: Request[Any, Any, Any], error: TickwickError) -> Response[Any]:
    status = STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    problem = Problem(status.phrase, status, str(error))
    match error:
        case InvalidParameter():
            problem.errors = [FieldError(error.field, error.message)]
        case UnknownSymbol():
            problem.near = list(error.near)
        case DatabaseUnavailable():
            problem.detail = "the database is away; try again in a moment"
            _log.warning("request failed", reason=str(error))
            return respond(problem, {"Retry-After": str(RETRY_SECONDS)})
        case DatabaseRefused():
            problem.detail = "the database does not serve this request"
            _log.error("database refused a request", reason=str(error))
    return respond(problem)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    status = HTTPStatus(error.status_code)
    detail = error.detail if status != HTTPStatus.NOT_FOUND else f"there is nothing at {request.url.path}"
    problem = Problem(status.phrase, status, detail)
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        problem.errors = [FieldError(str(e.get("key", "")), _wanted(str(e.get("message", "")))) for e in error.extra]
        problem.detail = "; ".join(f"{e.field}: {e.message}" for e in problem.errors) or error.detail
    return respond(problem, error.headers)


_WANTED: Final = (
    (re.compile(r"Expected `int`, got .*"), "must be a whole number"),
    (re.compile(r"Expected `int` >= (-?\d+)"), r"must be at least \1"),
    (re.compile(r"Expected `int` <= (-?\d+)"), r"must be at most \1"),
    (re.compile(r"Expected `str` of length <= (\d+)"), r"must have at most \1 characters"),
)


def _wanted(message: str) -> str:
    """What would be right, in words, out of msgspec's message."""
    for pattern, words in _WANTED:
        if pattern.fullmatch(message):
            return pattern.sub(words, message)
    return message


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    _log.error("request crashed", method=request.method, path=request.url.path, exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return respond(Problem(status.phrase, status, "something went wrong on our side; it has been logged"))


HANDLERS: Final[dict[Any, Any]] = {
    TickwickError: on_tickwick_error,
    HTTPException: on_http_exception,
    Exception: on_unexpected,
}
