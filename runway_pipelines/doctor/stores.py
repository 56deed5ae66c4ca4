"""Checks that Redis and MongoDB, if configured, are found and answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runway_pipelines.doctor.findings import CheckStatus, Finding, Seen, examined, skipped

if TYPE_CHECKING:
    from runway_pipelines.systems.mongo.client import MongoResource
    from runway_pipelines.systems.redis.client import RedisResource


@dataclass(frozen=True)
class OtherStores:
    """The stores beside the databases; None if not configured."""

    redis: RedisResource | None = None
    mongo: MongoResource | None = None


def examine_stores(stores: OtherStores) -> Iterator[Finding]:
    """Examine the configured stores, and skip the others."""
    redis, mongo = stores.redis, stores.mongo
    if redis is None:
        yield skipped("Redis", "answer", "RUNWAY_REDIS_SERVICE is not set")
    else:
        yield examined("Redis", "answer", lambda: _see_redis(redis))
    if mongo is None:
        yield skipped("MongoDB", "answer", "RUNWAY_MONGO_PROJECT is not set")
    else:
        yield examined("MongoDB", "answer", lambda: _see_mongo(mongo))


def _see_redis(redis: RedisResource) -> Seen:
    try:
        redis.open()
        redis.call(lambda client: client.ping())
    finally:
        redis.close()
    goal = redis.destination()
    tls = "over TLS" if goal.is_tls else "without TLS"
    return Seen(CheckStatus.OK, f"user {goal.username} at {goal.host}:{goal.port}, {tls}")


def _see_mongo(mongo: MongoResource) -> Seen:
    try:
        mongo.open()
    finally:
        mongo.close()
    goal = mongo.destination()
    hosts = ", ".join(f"{host}:{port}" for host, port in goal.hosts)
    if goal.deprecation:
        return Seen(CheckStatus.WARNING, f"{hosts} answers; {goal.deprecation}", "set RUNWAY_MONGO_ENV to mirror")
    return Seen(CheckStatus.OK, f"user {goal.username} in {goal.database} at {hosts}")
