"""A limit of calls a second: of all concurrent runs together where there is a Redis, else of each by itself.

Calls are spread evenly: each takes the next free moment and waits for it, so there are no bursts, nobody polls, and a
process that dies takes nothing with it but its moment.
"""

from __future__ import annotations

import logging
import time
from threading import Lock

import dagster as dg
from pydantic import Field, PrivateAttr

from runway_pipelines.errors import RunwayError
from runway_pipelines.systems.redis.client import RedisResource

KEY = "runway:calls:{name}"
# Nobody waits for a Redis that is down at each call; after this long it is asked again.
FORGO_SECONDS = 30.0
# A clock that was set back (another primary's) must not make everybody wait for it: then the counting begins anew.
LONGEST_QUEUE_SECONDS = 120.0
LONGEST_QUEUE_CALLS = 100
# By the server's clock, which all runs share, in microseconds. Lua's own text of such a number would be rounded.
_TAKE = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local interval, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
local free = tonumber(redis.call('GET', KEYS[1]) or '0')
if free < now or free > now + longest then free = now end
local next = free + interval
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1000)
return string.format('%.0f', free - now)
"""

_log = logging.getLogger(__name__)


class CallLimiter(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Most calls a second of what ``name`` names; without a rate there is no limit.

    A Redis that is not there never fails a run: then each limits itself, with one warning, until Redis is back.
    """

    name: str
    calls_per_second: float | None = Field(default=None, gt=0)
    redis: RedisResource | None = None

    _local_free: float = PrivateAttr(default=0.0)
    _forgone_until: float = PrivateAttr(default=0.0)
    _taking: Lock = PrivateAttr(default_factory=Lock)

    def reserve(self) -> float:
        """Take the next free moment, and say how many seconds it is away: the caller waits, who may be stopped."""
        if self.calls_per_second is None:
            return 0.0
        interval = 1 / self.calls_per_second
        with self._taking:  # one thread at a time, so that a Redis that is down is waited for once
            shared = self._shared(interval) if self._is_shared() else None
            return self._own(interval) if shared is None else shared

    def _is_shared(self) -> bool:
        return self.redis is not None and bool(self.redis.service) and time.monotonic() >= self._forgone_until

    def _shared(self, interval: float) -> float | None:
        """Seconds until the next moment that is free for all; None, and a warning, where Redis does not say."""
        if self.redis is None:
            return None
        try:
            return self._take(self.redis, interval)
        except RunwayError as error:
            self._forgone_until = time.monotonic() + FORGO_SECONDS
            _log.warning("Each run limits its calls of %s by itself for %g s: %s", self.name, FORGO_SECONDS, error)
            return None

    def _take(self, redis: RedisResource, interval: float) -> float:
        longest = max(LONGEST_QUEUE_SECONDS, LONGEST_QUEUE_CALLS * interval)
        key, microseconds = KEY.format(name=self.name), [round(interval * 1_000_000), round(longest * 1_000_000)]
        answer = redis.call(lambda client: client.register_script(_TAKE)(keys=[key], args=microseconds))
        return int(answer) / 1_000_000

    def _own(self, interval: float) -> float:
        now = time.monotonic()
        free = max(self._local_free, now)
        self._local_free = free + interval
        return free - now
