"""Snapshots whose bytes were found to be others than what was published, so that the next pull asks the warehouse."""

from __future__ import annotations

from threading import Lock

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import Pointer

MOST_REMEMBERED = 1_000


class DamagedSnapshots:
    """By tenant, each until its pointer is written anew: the run that did so has looked at the snapshot.

    For several threads; in this process alone, and only so many, for a mistake costs one torn pull.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pointers: dict[PartnerTenant, Pointer] = {}

    def remember(self, tenant: PartnerTenant, pointer: Pointer) -> None:
        """What the pointer says was found to be untrue."""
        with self._lock:
            self._pointers.pop(tenant, None)
            while len(self._pointers) >= MOST_REMEMBERED:
                del self._pointers[next(iter(self._pointers))]
            self._pointers[tenant] = pointer

    def is_known(self, tenant: PartnerTenant, pointer: Pointer) -> bool:
        """Whether it was found before, and nothing was published since."""
        return self._pointers.get(tenant) == pointer
