"""Which pool serves a partner: one a version, forgotten when refused, retired when the secret moved on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy.pool import ConnectionPoolEntry

from runway_pipelines.errors import AuthenticationRefused, QueryFailed, SecretMissing, Unavailable
from runway_pipelines.stream import pools as pools_module
from runway_pipelines.stream.pools import PartnerPools
from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation, SecretVersion, Unreadable
from tests.factories import secret_text
from tests.waiting import PATIENCE_SECONDS, join, wait_until

FOR_EVER = 3600.0  # longer than a test may take


class OneSession:
    def __init__(self, version: str) -> None:
        self.secret_version = version
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Account:
    """Snowflake and the secret of one partner."""

    def __init__(self) -> None:
        self.version: str | None = "v1"
        self.refuses: set[str] = set()
        self.opened: list[OneSession] = []
        self.reads = 0

    def require(self, partner_id: str) -> SecretVersion:
        self.reads += 1
        secret = self.read(partner_id)
        if secret is None:
            raise SecretMissing(expected="a secret", came="none", remedy="create it")
        return secret

    def read(self, partner_id: str) -> SecretVersion | None:
        return None if self.version is None else SecretVersion("secret", self.version, secret_text())

    def look(self, partner_id: str) -> Observation:
        return Gone("none") if self.version is None else Current(self.version)

    def open_session(self, connection: object, *, secret_version: str, query_tag: str) -> OneSession:
        if secret_version in self.refuses:
            raise AuthenticationRefused(expected="a session", came="a refusal", remedy="mend it")
        self.opened.append(OneSession(secret_version))
        return self.opened[-1]


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def pools(account: Account) -> Iterator[PartnerPools]:
    made = PartnerPools(account, account, size=3, acquire_seconds=PATIENCE_SECONDS)  # type: ignore[arg-type]
    yield made
    made.close(0.1)


def use(pools: PartnerPools, account: Account) -> OneSession:
    with pools.of("acme", pools.look("acme")).session() as session:
        return session  # type: ignore[return-value]


def test_a_session_is_used_again_and_the_secret_read_once(pools: PartnerPools, account: Account) -> None:
    assert use(pools, account) is use(pools, account)
    assert account.reads == 1


def test_callers_at_once_share_one_pool(pools: PartnerPools) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(pools.of("acme", Current("v1")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert len(set(map(id, found))) == 1


def test_a_refused_pool_is_forgotten_so_that_the_next_caller_tries_again(pools: PartnerPools, account: Account) -> None:
    account.refuses = {"v1"}
    with pytest.raises(AuthenticationRefused):
        use(pools, account)
    account.refuses = set()
    assert use(pools, account).secret_version == "v1"


def test_a_new_version_gets_a_new_pool_and_ends_the_old_sessions(pools: PartnerPools, account: Account) -> None:
    old = use(pools, account)
    with pools.of("acme", pools.look("acme")).session():
        account.version = "v2"
        assert use(pools, account).secret_version == "v2"
        assert not old.closed  # in use; it may finish
    wait_until(lambda: old.closed)
    assert use(pools, account) is account.opened[-1]


def test_a_secret_that_is_gone_is_no_credentials_even_with_a_live_pool(pools: PartnerPools, account: Account) -> None:
    session = use(pools, account)
    account.version = None
    with pytest.raises(SecretMissing):
        use(pools, account)
    wait_until(lambda: session.closed)


def test_while_nobody_knows_the_version_a_live_pool_is_good(pools: PartnerPools, account: Account) -> None:
    session = use(pools, account)
    with pools.of("acme", Unreadable("throttled")).session() as again:
        assert again is session


def test_a_partner_can_be_connected_to_with_a_live_pool_or_a_good_secret(pools: PartnerPools, account: Account) -> None:
    assert pools.can_connect("acme")
    use(pools, account)
    account.version = None
    assert pools.can_connect("acme")
    pools.evict_idle()
    assert pools.can_connect("acme")


def test_an_idle_session_is_evicted_and_one_that_is_used_is_not(
    pools: PartnerPools, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = use(pools, account)
    assert pools.evict_idle() == 0
    monkeypatch.setattr(pools_module, "IDLE_SECONDS", 0.05)
    pool = pools.of("acme", Current("v1"))
    with pool.session():
        time.sleep(0.1)
        assert pools.evict_idle() == 0
    time.sleep(0.1)
    assert pools.evict_idle() == 1
    assert session.closed
    assert (pool.sessions_idle, pool.is_live) == (0, False)
    assert not use(pools, account).closed


def test_eviction_leaves_room_for_as_many_sessions_as_before(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = PartnerPools(account, account, size=3, acquire_seconds=0.01)  # type: ignore[arg-type]
    pool = pools.of("acme", Current("v1"))
    monkeypatch.setattr(pools_module, "IDLE_SECONDS", 0)
    for _ in range(3):
        with (
            pool.session(),
            pool.session(),
            pool.session(),
            pytest.raises(Unavailable, match="RUNWAY_STREAM_SESSIONS_PER_PARTNER"),
            pool.session(),
        ):
            pass
        time.sleep(0.01)
        assert pools.evict_idle() == 3


def test_the_session_that_was_used_last_is_taken_first(pools: PartnerPools) -> None:
    pool = pools.of("acme", Current("v1"))
    with pool.session() as first, pool.session():
        pass
    for _ in range(3):
        with pool.session() as again:
            assert again is first
        pool.evict_idle(60)


def test_a_session_that_saw_an_error_is_not_handed_out_again(pools: PartnerPools, account: Account) -> None:
    pool = pools.of("acme", Current("v1"))
    with pytest.raises(QueryFailed), pool.session():
        raise QueryFailed(expected="rows", came="an error", remedy="mend it", code="1")
    assert account.opened[0].closed
    with pool.session() as other:
        assert other is not account.opened[0]


def test_closing_waits_for_what_is_in_use_and_then_ends_it(pools: PartnerPools, account: Account) -> None:
    pool = pools.of("acme", Current("v1"))
    idle = use(pools, account)
    assert idle is account.opened[0]
    with pool.session() as stuck:
        started = time.monotonic()
        pools.close(0.3)
        assert time.monotonic() - started >= 0.3
        wait_until(lambda: stuck.closed)  # type: ignore[attr-defined]
    with pytest.raises(Unavailable):
        pools.of("acme", Current("v1"))


def test_closing_does_not_wait_for_a_session_that_cannot_be_ended(
    pools: PartnerPools, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "HANG_SECONDS", 0.2)
    hangs = threading.Event()
    use(pools, account).close = hangs.wait  # type: ignore[method-assign]
    pools.close(0.1)
    hangs.set()


def test_closing_is_quick_when_what_is_in_use_comes_back(pools: PartnerPools) -> None:
    pool = pools.of("acme", Current("v1"))
    borrowed = threading.Event()

    def hold() -> None:
        with pool.session():
            borrowed.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    assert borrowed.wait(PATIENCE_SECONDS)
    pools.close(FOR_EVER)
    join(thread)


def test_nobody_waits_for_a_session_while_idle_ones_are_ended(
    pools: PartnerPools, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the network is gone, ending one takes the driver many seconds."""
    monkeypatch.setattr(pools_module, "IDLE_SECONDS", 0)
    pool = pools.of("acme", Current("v1"))
    hangs, ending = threading.Event(), threading.Event()

    def hang() -> None:
        ending.set()
        hangs.wait()

    with pool.session() as first, pool.session() as second, pool.session() as third:
        for session in (first, second, third):
            session.close = hang  # type: ignore[method-assign]
    eviction = threading.Thread(target=pools.evict_idle)
    eviction.start()
    assert ending.wait(PATIENCE_SECONDS)
    with pool.session() as fresh:
        assert fresh not in (first, second, third)
    hangs.set()
    join(eviction)


def test_a_session_that_returns_while_its_pool_is_retired_is_ended(pools: PartnerPools, account: Account) -> None:
    pool = pools.of("acme", Current("v1"))
    queue = pool._pool
    put_back = queue._do_return_conn

    def retire_just_before(record: ConnectionPoolEntry) -> None:
        queue._do_return_conn = put_back  # type: ignore[method-assign]
        pool.retire()
        put_back(record)

    with pool.session() as session:
        queue._do_return_conn = retire_just_before  # type: ignore[method-assign]
    assert session.closed  # type: ignore[attr-defined]
    assert pool.sessions_idle == 0


def test_an_error_on_a_retired_pool_is_the_error_that_is_seen(
    pools: PartnerPools, account: Account, recwarn: pytest.WarningsRecorder
) -> None:
    pool = pools.of("acme", Current("v1"))

    def fail() -> None:
        with pool.session():
            pool.retire()
            raise QueryFailed(expected="rows", came="an error", remedy="mend it", code="1")

    with pytest.raises(QueryFailed):
        fail()
    assert account.opened[0].closed
    assert not recwarn.list
