"""binance-sdk-spot, which reads what it does not understand as something else and says so in its log alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydantic import BaseModel

_NOT_PUBLISHED: Final = frozenset({"price_exponent", "qty_exponent", "sors", "count"})
"""Fields of models that the published answers of these calls do not have."""


def whole(answer: Any) -> Any:
    """The answer itself, once it is sure that its models have each of their fields and nothing besides."""
    for model in _models(answer):
        missing = {name for name, value in _fields(model) if value is None} - _NOT_PUBLISHED
        assert not missing, f"{type(model).__name__} lacks {missing}"
        assert not model.additional_properties, f"{type(model).__name__} has {model.additional_properties}"
    return answer


def _models(answer: Any) -> Iterator[Any]:
    if isinstance(answer, list):
        for part in answer:
            yield from _models(part)
    elif hasattr(answer, "actual_instance"):
        yield from _models(answer.actual_instance)
    elif isinstance(answer, BaseModel):
        yield answer
        for _, value in _fields(answer):
            yield from _models(value)


def _fields(model: BaseModel) -> list[tuple[str, Any]]:
    return [(name, getattr(model, name)) for name in type(model).model_fields if name != "additional_properties"]


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def without_complaint() -> Iterator[None]:
    """No answer had to be read otherwise than its model says."""
    complaints = _Complaints()
    logging.getLogger().addHandler(complaints)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(complaints)
    assert not complaints.texts
