"""Which students a server keeps: for some minutes, of the current key, as many as there is room for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import pyarrow as pa
import pytest

from runway_pipelines.errors import Unavailable
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream.persons_cache import PersonsCache
from runway_pipelines.students.persons import Persons
from runway_pipelines.students.warehouse import TenantPersons
from tests.waiting import PATIENCE_SECONDS, join

NORTH, SOUTH, EAST = (PartnerTenant("acme", code) for code in ("north", "south", "east"))
SIZE = 8 * 100


class Warehouse:
    """Counts its answers, each of `SIZE` bytes; ``now`` is the cache's clock."""

    def __init__(self) -> None:
        self.version = "v1"
        self.asked: list[PartnerTenant] = []
        self.now = 0.0

    def cache(self, minutes: float = 15, most_bytes: int = 10 * SIZE) -> PersonsCache:
        return PersonsCache(timedelta(minutes=minutes), most_bytes=most_bytes, clock=lambda: self.now)

    def answer(self, tenant: PartnerTenant) -> TenantPersons:
        self.asked.append(tenant)
        nobody = pa.table({})
        persons = Persons(pa.table({"person": pa.array(range(100), pa.int64())}), nobody, nobody)
        return TenantPersons(persons, datetime.now(UTC), self.version)

    def get(self, cache: PersonsCache, tenant: PartnerTenant, version: str | None = "v1") -> TenantPersons:
        return cache.get(tenant, version, lambda: self.answer(tenant))


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse()


def test_they_are_kept_from_the_question_on_and_not_a_moment_longer(warehouse: Warehouse) -> None:
    cache = warehouse.cache(minutes=15)
    first = warehouse.get(cache, NORTH)
    warehouse.now = 899.0
    assert warehouse.get(cache, NORTH) is first and cache.evict() == 0
    warehouse.now = 900.0
    assert warehouse.get(cache, NORTH) is not first
    warehouse.now = 1800.0
    assert (cache.evict(), cache.nbytes) == (1, 0), "no request has to come for that"


def test_another_version_of_the_secret_ends_them_and_an_unknown_one_does_not(warehouse: Warehouse) -> None:
    cache = warehouse.cache()
    first = warehouse.get(cache, NORTH)
    assert warehouse.get(cache, NORTH, version=None) is first
    warehouse.version = "v2"
    second = warehouse.get(cache, NORTH, version="v2")
    assert second is not first and warehouse.get(cache, NORTH, version="v2") is second
    warehouse.get(cache, NORTH, version="")
    assert len(warehouse.asked) == 3, "nothing is kept of a secret that is gone"


def test_who_was_used_least_recently_goes_first(warehouse: Warehouse) -> None:
    cache = warehouse.cache(most_bytes=2 * SIZE)
    for tenant in (NORTH, SOUTH, NORTH, EAST, NORTH, EAST, SOUTH):
        warehouse.get(cache, tenant)
        assert cache.nbytes <= 2 * SIZE
    assert warehouse.asked == [NORTH, SOUTH, EAST, SOUTH]


@pytest.mark.parametrize(("minutes", "most_bytes"), [(0, 10 * SIZE), (15, SIZE - 1)])
def test_what_may_not_be_kept_serves_its_own_request(warehouse: Warehouse, minutes: int, most_bytes: int) -> None:
    cache = warehouse.cache(minutes, most_bytes)
    assert warehouse.get(cache, NORTH) is not warehouse.get(cache, NORTH)
    assert cache.nbytes == 0


def test_concurrent_requests_for_a_tenant_ask_once_and_those_for_another_do_not_wait(warehouse: Warehouse) -> None:
    cache, go = warehouse.cache(), Event()
    found: list[TenantPersons] = []

    def slow() -> TenantPersons:
        assert go.wait(PATIENCE_SECONDS)
        return warehouse.answer(NORTH)

    threads = [Thread(target=lambda: found.append(cache.get(NORTH, "v1", slow)), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    warehouse.get(cache, SOUTH)
    go.set()
    join(*threads)
    assert warehouse.asked == [SOUTH, NORTH] and len({id(each) for each in found}) == 1


def test_an_error_is_not_kept(warehouse: Warehouse) -> None:
    cache = warehouse.cache()

    def fail() -> TenantPersons:
        raise Unavailable(expected="an answer", came="none", remedy="try again")

    with pytest.raises(Unavailable):
        cache.get(NORTH, "v1", fail)
    assert warehouse.get(cache, NORTH)
