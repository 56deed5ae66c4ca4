"""Caps calls per second: across all concurrent runs if there is a Redis, otherwise in each run.

Each call reserves the next free slot and waits for it, so calls are spread evenly, nothing polls, and a process that
dies loses only its slot.
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
# How long a Redis that is down is left alone, so that not every call waits for it.
FORGO_SECONDS = 30.0
# A slot further away than this means that the clock was set back (a new primary); counting then starts afresh.
LONGEST_QUEUE_SECONDS = 120.0
LONGEST_QUEUE_CALLS = 100
# In microseconds of the server's clock, which all runs share. Lua would round such a number in its own format.
_RESERVE = """
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
    """Caps the rate of calls to ``name``; without ``calls_per_second`` it is unlimited.

    A missing Redis never fails a run: each run limits itself, with one warning, until Redis is back.
    """

    name: str
    calls_per_second: float | None = Field(default=None, gt=0)
    redis: RedisResource | None = None

    _local_free: float = PrivateAttr(default=0.0)
    _forgone_until: float = PrivateAttr(default=0.0)
    _reserving: Lock = PrivateAttr(default_factory=Lock)

    def reserve(self) -> float:
        """Reserve the next free slot; returns the seconds until then. The caller waits, and may be stopped."""
        if self.calls_per_second is None:
            return 0.0
        interval = 1 / self.calls_per_second
        with self._reserving:  # one thread at a time, so that only one waits for a Redis that is down
            if self.redis is not None and self.redis.service and time.monotonic() >= self._forgone_until:
                try:
                    return self._shared(self.redis, interval)
                except RunwayError as error:
                    self._forgone_until = time.monotonic() + FORGO_SECONDS
                    _log.warning("Each run limits its own calls to %s for %g s: %s", self.name, FORGO_SECONDS, error)
            return self._own(interval)

    def _shared(self, redis: RedisResource, interval: float) -> float:
        longest = max(LONGEST_QUEUE_SECONDS, LONGEST_QUEUE_CALLS * interval)
        key, microseconds = KEY.format(name=self.name), [round(interval * 1_000_000), round(longest * 1_000_000)]
        answer = redis.call(lambda client: client.register_script(_RESERVE)(keys=[key], args=microseconds))
        return int(answer) / 1_000_000

    def _own(self, interval: float) -> float:
        now = time.monotonic()
        free = max(self._local_free, now)
        self._local_free = free + interval
        return free - now
