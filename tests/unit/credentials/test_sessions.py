"""A partner's sessions: few, opened together, never used after an error, and a refused partner is left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.credentials.sessions import PARTNER_WIDE_QUERY_ERRORS, PartnerSessions
from runway_pipelines.errors import (
    AuthenticationRefused,
    Held,
    QueryFailed,
    RowsUnreadable,
    SecretMalformed,
    SecretMissing,
    Unavailable,
)
from runway_pipelines.systems.aws.secret_versions import SecretVersion
from runway_pipelines.systems.snowflake.connection import EduConnection
from tests.factories import secret_text
from tests.waiting import PATIENCE_SECONDS

SIZE = 4
WAIT = PATIENCE_SECONDS


class CountedSession:
    """A session that remembers whether it was closed, and by how many threads it is used."""

    def __init__(self, secret_version: str) -> None:
        self.secret_version = secret_version
        self.closed = False
        self.users = 0

    def close(self) -> None:
        self.closed = True


class CountedSnowflake:
    """Opens sessions, but none for a version of the secret that it ``refuses``; lists what it was asked for."""

    def __init__(self) -> None:
        self.refuses: set[str] = set()
        self.logins: list[str] = []
        self.opened: list[CountedSession] = []
        self.query_tags: set[str] = set()
        self.before_answer: Callable[[str], object] = lambda version: None

    def open_session(self, connection: EduConnection, *, secret_version: str, query_tag: str) -> CountedSession:
        self.logins.append(secret_version)
        self.query_tags.add(query_tag)
        self.before_answer(secret_version)
        if secret_version in self.refuses:
            raise AuthenticationRefused(expected="a session", came="a refused login", remedy="mend it", code="390144")
        session = CountedSession(secret_version)
        self.opened.append(session)
        return session


class CountedSecrets:
    """Gives the ``answers`` one after the other, the last one for ever; None is no secret, an exception is raised."""

    def __init__(self, *answers: SecretVersion | Exception | None) -> None:
        self.answers = list(answers)
        self.reads = 0

    def read(self, partner_id: str) -> SecretVersion | None:
        self.reads += 1
        time.sleep(0.02)  # long enough for a second thread to come by
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def name(self, partner_id: str) -> str:
        return f"stg-edu-connection-info-{partner_id}"

    require = PartnerSecrets.require


def version(secret_version: str, text: str | None = None) -> SecretVersion:
    return SecretVersion("stg-edu-connection-info-acme", secret_version, secret_text() if text is None else text)


@pytest.fixture
def snowflake() -> CountedSnowflake:
    return CountedSnowflake()


@pytest.fixture
def partner_sessions(snowflake: CountedSnowflake) -> Iterator[Callable[..., PartnerSessions]]:
    made = []

    def make(secrets: CountedSecrets, size: int = SIZE, **options: Any) -> PartnerSessions:
        made.append(PartnerSessions("acme", secrets, snowflake, size=size, query_tag="a tag", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def in_threads(threads: int, tasks: int, task: Callable[[], Any]) -> list[Future[Any]]:
    """Run a task that many times over that many threads; returns when all are done."""
    with ThreadPoolExecutor(threads) as executor:
        return [executor.submit(task) for _ in range(tasks)]


def borrow(sessions: PartnerSessions) -> CountedSession:
    with sessions.session() as session:
        return session  # type: ignore[return-value]


def query_failed(code: str) -> QueryFailed:
    return QueryFailed(expected="rows", came=f"error {code}", remedy="mend it", code=code)


def test_forty_tenants_share_a_few_sessions_which_are_opened_in_parallel(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    together = threading.Barrier(SIZE)  # breaks unless that many connects are under way at once
    snowflake.before_answer = lambda _: together.wait(WAIT)
    secrets = CountedSecrets(version("v1"))
    sessions = partner_sessions(secrets)
    shared: list[int] = []

    def use() -> None:
        with sessions.session() as session:
            session.users += 1  # type: ignore[attr-defined]
            time.sleep(0.002)
            shared.append(session.users)  # type: ignore[attr-defined]
            session.users -= 1  # type: ignore[attr-defined]

    for future in in_threads(40, 40, use):
        future.result()
    assert len(snowflake.logins) == sessions.connects == SIZE
    assert secrets.reads == 1
    assert shared == [1] * 40
    assert snowflake.query_tags == {"a tag"}


def test_no_session_is_opened_before_there_is_a_tenant_for_it(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    secrets = CountedSecrets(version("v1"))
    sessions = partner_sessions(secrets)
    assert secrets.reads == len(snowflake.logins) == 0
    assert len({id(borrow(sessions)) for _ in range(10)}) == 1
    assert len(snowflake.logins) == 1


def test_refused_data_costs_no_session(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")), size=1)
    refusals = [
        Held(check="rows_of_tenant", expected="own rows", came="another's", remedy="look"),
        RowsUnreadable(expected="an order", came="another", remedy="look"),
    ]
    for refusal in refusals:
        with pytest.raises(type(refusal)), sessions.session():
            raise refusal
    borrow(sessions)
    assert len(snowflake.logins) == 1


def test_a_session_is_never_handed_out_after_it_saw_an_error(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")), size=1)
    errors: list[BaseException] = [
        query_failed("1234"),
        Unavailable(expected="an answer", came="none", remedy="again"),
        KeyboardInterrupt(),
    ]
    for error in errors:
        with pytest.raises(type(error)) as raised, sessions.session() as session:
            raise error
        assert raised.value is error
        assert session.closed
    assert not borrow(sessions).closed
    assert [each.closed for each in snowflake.opened] == [True] * len(errors) + [False]


def test_one_tenants_error_leaves_the_other_sessions_open(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")))
    with sessions.session() as healthy:
        with pytest.raises(ZeroDivisionError), sessions.session():
            raise ZeroDivisionError
        assert not healthy.closed  # type: ignore[attr-defined]
    assert healthy in [borrow(sessions) for _ in range(2)]


def test_after_a_refused_login_the_secret_is_read_once_more_and_tried_once_again(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    snowflake.refuses = {"v1"}
    secrets = CountedSecrets(version("v1"), version("v2"))
    session = borrow(partner_sessions(secrets))
    assert session.secret_version == "v2"
    assert secrets.reads == 2
    assert snowflake.logins == ["v1", "v2"]


def test_a_key_that_is_rotated_during_the_run_is_picked_up_by_the_next_connect(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    secrets = CountedSecrets(version("v1"), version("v2"))
    sessions = partner_sessions(secrets, size=1)
    assert borrow(sessions).secret_version == "v1"
    snowflake.refuses = {"v1"}
    with pytest.raises(ZeroDivisionError), sessions.session():
        raise ZeroDivisionError
    assert borrow(sessions).secret_version == "v2"
    assert secrets.reads == 2


def test_threads_that_are_refused_together_read_the_secret_once_more_between_them(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    together = threading.Barrier(SIZE)
    held = threading.Barrier(SIZE)
    snowflake.refuses = {"v1"}
    snowflake.before_answer = lambda secret_version: secret_version == "v1" and together.wait(WAIT)
    secrets = CountedSecrets(version("v1"), version("v2"))
    sessions = partner_sessions(secrets)

    def use() -> str:
        with sessions.session() as session:
            held.wait(WAIT)
            return session.secret_version

    assert [future.result() for future in in_threads(SIZE, SIZE, use)] == ["v2"] * SIZE
    assert secrets.reads == 2


def test_a_key_that_stays_refused_costs_two_logins_and_nobody_logs_in_again(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    snowflake.refuses = {"v1", "v2"}
    secrets = CountedSecrets(version("v1"), version("v2"))
    sessions = partner_sessions(secrets)
    for _ in range(10):
        with pytest.raises(AuthenticationRefused):
            borrow(sessions)
    assert snowflake.logins == ["v1", "v2"]
    assert secrets.reads == 2


def test_a_refused_key_costs_one_more_login_and_not_one_for_each_thread_or_tenant(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    together = threading.Barrier(SIZE)
    snowflake.refuses = {"v1", "v2"}
    snowflake.before_answer = lambda secret_version: together.wait(WAIT) if secret_version == "v1" else time.sleep(0.2)
    secrets = CountedSecrets(version("v1"), version("v2"))
    sessions = partner_sessions(secrets)
    for future in in_threads(SIZE, 40, lambda: borrow(sessions)):
        assert isinstance(future.exception(), AuthenticationRefused)
    assert sorted(snowflake.logins) == ["v1"] * SIZE + ["v2"]
    assert secrets.reads == 2


def test_a_missing_secret_is_looked_up_once_and_named(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    secrets = CountedSecrets(None)
    sessions = partner_sessions(secrets)
    for future in in_threads(SIZE, 40, lambda: borrow(sessions)):
        assert isinstance(future.exception(), SecretMissing)
        assert "stg-edu-connection-info-acme" in str(future.exception())
    assert secrets.reads == 1
    assert snowflake.logins == []


def test_a_secret_that_cannot_be_used_never_reaches_snowflake(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    secrets = CountedSecrets(version("v1", secret_text(privateKey="c4n4ry!")))
    sessions = partner_sessions(secrets)
    for future in in_threads(SIZE, 40, lambda: borrow(sessions)):
        assert isinstance(future.exception(), SecretMalformed)
        assert "c4n4ry" not in str(future.exception())
    assert secrets.reads == 1
    assert snowflake.logins == []


@pytest.mark.parametrize("code", sorted(PARTNER_WIDE_QUERY_ERRORS))
def test_an_error_that_every_tenant_would_meet_stops_further_connects(
    code: str, snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")))
    with pytest.raises(QueryFailed) as first, sessions.session():
        raise query_failed(code)
    for future in in_threads(SIZE, 40, lambda: borrow(sessions)):
        assert future.exception() is first.value
    assert len(snowflake.logins) == 1


def test_an_error_of_one_tenants_statement_does_not_stop_the_others(
    partner_sessions: Callable[..., PartnerSessions],
) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")))
    with pytest.raises(QueryFailed), sessions.session():
        raise query_failed("100038")
    assert not borrow(sessions).closed


def test_a_passing_failure_refuses_nobody_for_good(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    gone = Unavailable(expected="the secret", came="no answer", remedy="again")
    sessions = partner_sessions(CountedSecrets(gone, version("v1")))
    with pytest.raises(Unavailable):
        borrow(sessions)
    assert borrow(sessions).secret_version == "v1"

    def unreachable(_: str) -> None:
        snowflake.before_answer = lambda secret_version: None
        raise gone

    with pytest.raises(ZeroDivisionError), sessions.session():
        raise ZeroDivisionError
    snowflake.before_answer = unreachable
    with pytest.raises(Unavailable):
        borrow(sessions)
    assert borrow(sessions).secret_version == "v1"


def test_failures_with_a_success_between_them_do_not_add_up(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")), 1)
    is_reachable = False

    def sometimes(_: str) -> None:
        if not is_reachable:
            raise Unavailable(expected="a session", came="no answer", remedy="again")

    snowflake.before_answer = sometimes
    for _ in range(3):
        is_reachable = False
        with pytest.raises(Unavailable):
            borrow(sessions)
        is_reachable = True
        with pytest.raises(ZeroDivisionError), sessions.session():
            raise ZeroDivisionError  # a session that saw an error is not kept


def test_a_secret_that_cannot_be_read_the_second_time_is_the_callers_error(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    snowflake.refuses = {"v1"}
    sessions = partner_sessions(CountedSecrets(version("v1"), None))
    with pytest.raises(SecretMissing):
        borrow(sessions)
    assert snowflake.logins == ["v1"]


def test_closing_ends_every_idle_session(
    snowflake: CountedSnowflake, partner_sessions: Callable[..., PartnerSessions]
) -> None:
    together = threading.Barrier(SIZE)
    snowflake.before_answer = lambda _: together.wait(WAIT)
    sessions = partner_sessions(CountedSecrets(version("v1")))
    in_threads(SIZE, SIZE, lambda: borrow(sessions))
    sessions.close()
    assert [session.closed for session in snowflake.opened] == [True] * SIZE


def test_waiting_too_long_for_a_session_is_unavailability(partner_sessions: Callable[..., PartnerSessions]) -> None:
    sessions = partner_sessions(CountedSecrets(version("v1")), size=1, acquire_timeout=0.05)
    with sessions.session(), pytest.raises(Unavailable), sessions.session():
        pass
