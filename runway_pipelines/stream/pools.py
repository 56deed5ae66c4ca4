"""Which pool of Snowflake sessions serves a partner, in a process that lives for days (rosters contract, section 6).

There is one `PartnerSessions` for each version of a partner's secret: made at first use, forgotten once refused, and
retired when the secret changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Thread

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import RunwayError, SecretMissing, Unavailable
from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation, Unreadable
from runway_pipelines.systems.snowflake.client import EduSnowflake

log = logging.getLogger(__name__)
EVICTION_SECONDS = 60
IDLE_SECONDS = 30 * 60
DRAIN_SECONDS = 10
HANG_SECONDS = 3


@dataclass(frozen=True)
class _Pool:
    """A partner's pool, and the secret version that was current when it was made (None if unknown)."""

    sessions: PartnerSessions
    secret_version: str | None

    def serves(self, seen: Observation) -> bool:
        """Whether it is still good: no login was refused, and the secret exists in the same version."""
        if self.sessions.refusal is not None or isinstance(seen, Gone):
            return False
        read = self.sessions.secret
        secret_version = self.secret_version or (read.secret_version if read is not None else None)
        return not isinstance(seen, Current) or secret_version in (None, seen.secret_version)


class PartnerPools:
    """Pools by partner, for all requests; thread-safe."""

    def __init__(self, secrets: PartnerSecrets, snowflake: EduSnowflake, *, size: int, acquire_seconds: float) -> None:
        self._secrets = secrets
        self._snowflake = snowflake
        self._size = size
        self._acquire_seconds = acquire_seconds
        self._lock = Lock()
        self._pools: dict[str, _Pool] = {}
        # Pools of older secret versions, with sessions still in use.
        self._retired: list[PartnerSessions] = []
        self._is_closed = False

    def of(self, partner_id: str, seen: Observation) -> PartnerSessions:
        """The partner's pool. ``seen`` is the state of its secret; if that is unknown, a live pool is good.

        Concurrent first callers share one pool, which reads the secret once. A refused pool is forgotten, so the next
        caller tries again. Raises `SecretMissing` if the secret is gone, `Unavailable` if the process is ending.
        """
        retired = None
        with self._lock:
            if self._is_closed:
                raise Unavailable(
                    expected="a pool of sessions",
                    came="a server that is stopping",
                    remedy="pull again, from another one",
                )
            pool = self._pools.get(partner_id)
            if pool is not None and not pool.serves(seen):
                retired = self._pools.pop(partner_id).sessions
                self._retired.append(retired)
                pool = None
            if pool is None and not isinstance(seen, Gone):
                version = seen.secret_version if isinstance(seen, Current) else None
                pool = self._pools[partner_id] = _Pool(self._new(partner_id), version)
        if retired is not None:
            # Closing sessions calls Snowflake; a caller with a new key need not wait for that.
            Thread(target=retired.retire, name="retire", daemon=True).start()
        if pool is None:
            raise SecretMissing(
                expected=f"the secret of partner {partner_id}",
                came="none that can be read",
                remedy="create it as docs/operations.md says, or switch the partner's cross-year matching off",
            )
        return pool.sessions

    def can_connect(self, partner_id: str) -> bool:
        """Whether the partner has a live pool or, read now, a usable secret; an error is logged and means no."""
        with self._lock:
            pool = self._pools.get(partner_id)
        if pool is not None and pool.sessions.is_live:
            return True
        try:
            secret = self._secrets.read(partner_id)
            if secret is not None:
                parse_connection(secret.name, secret.text)
            return secret is not None
        except RunwayError as error:
            log.warning("%s: matching is reported as unavailable: %s", partner_id, error)
            return False

    def look(self, partner_id: str) -> Observation:
        """The state of the partner's secret now."""
        seen = self._secrets.look(partner_id)
        if isinstance(seen, Unreadable):
            log.warning("%s: its current secret version is unknown: %s", partner_id, seen.reason)
        return seen

    def evict_idle(self) -> int:
        """Close sessions idle for `IDLE_SECONDS`; returns how many. Called every `EVICTION_SECONDS`."""
        with self._lock:
            pools = [pool.sessions for pool in self._pools.values()]
            self._retired = [pool for pool in self._retired if pool.sessions_in_use]
        return sum(pool.evict_idle(IDLE_SECONDS) for pool in pools)

    def count(self, of: Callable[[PartnerSessions], int]) -> int:
        """The sum of ``of`` over all pools, for the metrics."""
        with self._lock:
            return sum(of(pool) for pool in (*(pool.sessions for pool in self._pools.values()), *self._retired))

    def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Drain all pools at the same time, each for at most ``seconds``.

        Closing a session calls Snowflake: what still hangs a moment later is left to the end of the process.
        """
        with self._lock:
            self._is_closed = True
            pools = [*(pool.sessions for pool in self._pools.values()), *self._retired]
            self._pools.clear()
        threads = [Thread(target=pool.drain, args=(seconds,), name="drain", daemon=True) for pool in pools]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds + HANG_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if hanging := sum(thread.is_alive() for thread in threads):
            log.warning("the sessions of %d partners could not be closed in time", hanging)

    def _new(self, partner_id: str) -> PartnerSessions:
        return PartnerSessions(
            partner_id,
            self._secrets,
            self._snowflake,
            size=self._size,
            query_tag=f"runway_pipelines partner={partner_id} stream",
            acquire_timeout=self._acquire_seconds,
            size_variable="RUNWAY_STREAM_SESSIONS_PER_PARTNER",
        )
