"""How many messages a client may send."""

import time


class TooManyMessages(Exception):
    """The client sends more than the published rate, which ends its connection."""


class Budget:
    """So many messages a second, and as many at once."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._left = float(rate)
        self._at = time.monotonic()

    def spend(self) -> None:
        """Count a message. Raises TooManyMessages."""
        now = time.monotonic()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        if self._left < 0:
            raise TooManyMessages
