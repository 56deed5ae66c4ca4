"""The students that a server keeps in memory for a while (student resolution contract, section 4).

A tenant's students are asked for once and serve every file that comes within some minutes. They are dropped when the
minutes are over, when the partner's secret has another version than they were read with, or when others need the room.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING

from runway_pipelines.partner_tenants.keys import PartnerTenant

if TYPE_CHECKING:
    from runway_pipelines.students.warehouse import TenantPersons

# Fifteen tenants of 100,000 students.
MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, repr=False)
class _Kept:
    persons: TenantPersons
    until: float

    @property
    def nbytes(self) -> int:
        return self.persons.persons.nbytes


class PersonsCache:
    """Persons by tenant, for all requests; thread-safe. At most ``most_bytes``, least recently used first out."""

    def __init__(
        self,
        kept_for: timedelta,
        *,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = kept_for.total_seconds()
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = Lock()
        self._kept: OrderedDict[PartnerTenant, _Kept] = OrderedDict()
        self._asking: dict[PartnerTenant, Lock] = {}

    def get(self, tenant: PartnerTenant, secret_version: str | None, ask: Callable[[], TenantPersons]) -> TenantPersons:
        """The tenant's persons; calls ``ask`` if none are kept that were read with this version (None: unknown now).

        Concurrent callers for one tenant wait for one answer. Raises what ``ask`` raises.
        """
        with self._lock:
            asking = self._asking.setdefault(tenant, Lock())
        with asking:
            found = self._find(tenant, secret_version)
            if found is None:
                began = self._clock()
                found = ask()
                self._keep(tenant, _Kept(found, began + self._seconds))
            return found

    def evict(self) -> int:
        """Drop what has expired; returns for how many tenants. Called now and then: no further request may come."""
        with self._lock:
            over = [tenant for tenant, kept in self._kept.items() if kept.until <= self._clock()]
            for tenant in over:
                del self._kept[tenant]
            return len(over)

    @property
    def nbytes(self) -> int:
        """How many bytes it keeps."""
        with self._lock:
            return sum(kept.nbytes for kept in self._kept.values())

    def _find(self, tenant: PartnerTenant, secret_version: str | None) -> TenantPersons | None:
        with self._lock:
            kept = self._kept.get(tenant)
            if kept is None:
                return None
            if kept.until <= self._clock() or secret_version not in (None, kept.persons.secret_version):
                del self._kept[tenant]
                return None
            self._kept.move_to_end(tenant)
            return kept.persons

    def _keep(self, tenant: PartnerTenant, kept: _Kept) -> None:
        if self._seconds <= 0 or kept.nbytes > self._most_bytes:
            return
        with self._lock:
            self._kept[tenant] = kept
            while sum(each.nbytes for each in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)
