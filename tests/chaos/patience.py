"""REST as a client with patience asks it: whoever is told to try again in a moment does."""

import asyncio
import time
from typing import Any, Final

from tests.integration.rest import Rest

PATIENCE_SECONDS: Final = 5.0


class PatientRest(Rest):
    """Asks again where the answer is 503, for as long as a server may take to recover."""

    async def get(self, path: str, **query: Any) -> Any:
        began = time.monotonic()
        while (answer := await self.ask("/api/v1" + path, **query)).status == 503:
            assert time.monotonic() < began + PATIENCE_SECONDS, "503 for longer than it may take to recover"
            await asyncio.sleep(0.2)
        assert answer.status == 200, answer
        return answer.json
