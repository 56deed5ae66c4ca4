"""Places for pulls: so many in the process, and so many for each partner (a bulkhead).

A partner whose warehouse is stuck holds its own places until its pulls give up, and leaves the others theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Places:
    """For one event loop. Who waits longest is next."""

    def __init__(self, most: int, most_of_a_partner: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_a_partner = most_of_a_partner
        self._of_partner: dict[str, asyncio.Semaphore] = {}

    async def take(self, partner_id: str) -> Callable[[], None]:
        """Wait for a place of the partner, then for one of all; returns what gives both back (in the loop)."""
        own = self._of_partner.setdefault(partner_id, asyncio.Semaphore(self._most_of_a_partner))
        await own.acquire()
        try:
            await self._all.acquire()
        except asyncio.CancelledError:
            own.release()
            raise

        def give_back() -> None:
            own.release()
            self._all.release()

        return give_back
