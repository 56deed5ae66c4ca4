"""Postgres by IAM: TLS or nothing, a token for each connection and never again, and a pool that heals by itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest

from runway_pipelines.errors import (
    AuthenticationRefused,
    ConfigurationError,
    LockTimeout,
    Permanent,
    RunwayError,
    SecretMalformed,
    SecretMissing,
    Unavailable,
)
from runway_pipelines.local.postgres_server import PostgresServer, start_postgres
from runway_pipelines.systems import store_resource
from runway_pipelines.systems.postgres.databases import ApplicationDatabase, PostgresResource
from runway_pipelines.systems.postgres.pool import HealingPool
from tests.integration.world import World
from tests.servers.certificates import new_authority
from tests.servers.rds import LocalRds, local_rds
from tests.waiting import PATIENCE_SECONDS, join, wait_until

SERVICE, DATABASE, USER = "chat-api", "chat_api", "chat_api_app"
REAL_ENDPOINT = ("db.mirror.internal", 5432)
REGION = "eu-central-1"


class Server:
    """A Postgres of this module's own, which tests kill."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.running = start_postgres(state)

    def kill(self) -> None:
        """As a machine that vanished: without a word to anybody."""
        os.kill(self.running.child.pid, signal.SIGKILL)
        self.running.child.stop()

    def restart(self) -> PostgresServer:
        self.running = start_postgres(self.state)
        return self.running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("iam") / "state"
    state.mkdir(mode=0o711)
    one = Server(state)
    one.running.create_database(DATABASE)
    yield one
    one.running.stop()


@pytest.fixture
def rds(server: Server, world: World, tmp_path: Path) -> Iterator[LocalRds]:
    """The server as RDS would be, found by mirror's parameters."""
    with _local_rds(server, tmp_path) as one:
        _parameters("localhost", one.front.port)
        yield one


def _local_rds(server: Server, folder: Path, **options: Any) -> Any:
    return local_rds(
        server.running,
        server.state / "postgres",
        folder / "tls",
        users=[USER, "chat_api_ro"],
        region=REGION,
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        **options,
    )


def _parameters(host: str, port: int) -> None:
    ssm = boto3.client("ssm", region_name=REGION)
    for part, value in (("endpoint", host), ("port", str(port))):
        ssm.put_parameter(Name=f"/mirror/current/postgres-rds/{part}", Value=value, Type="String", Overwrite=True)


@pytest.fixture
def endless_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries to connect once more waits longer than a test may take."""
    monkeypatch.setattr(store_resource, "FIRST_WAIT_SECONDS", 3600.0)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def database(rds: LocalRds, opened: ExitStack, **options: Any) -> PostgresResource:
    one = PostgresResource(
        **({"env": "mirror", "service": SERVICE, "region": REGION, "ca_file": str(rds.ca_file)} | options)
    )
    opened.callback(one.close)
    return one


def ask(one: PostgresResource, statement: str = "select 1") -> Any:
    with one.connection() as connection:
        return connection.execute(statement).fetchone()


@pytest.mark.slow
def test_it_is_found_by_its_service_and_let_in_by_a_token_over_verified_tls(rds: LocalRds, opened: ExitStack) -> None:
    assert ask(database(rds, opened), "select current_user::text, current_database()::text") == (USER, DATABASE)
    assert len(rds.tokens) == rds.front.connections == 1
    assert rds.refusals == []
    with database(rds, opened).connection() as connection:
        assert connection.pgconn.ssl_in_use


def test_the_mirrors_application_database_is_opened_read_only(rds: LocalRds, opened: ExitStack) -> None:
    one = ApplicationDatabase(env="mirror", service=SERVICE, region=REGION, ca_file=str(rds.ca_file))
    opened.callback(one.close)
    assert ask(one, "select current_user::text, current_setting('transaction_read_only')") == ("chat_api_ro", "on")
    with pytest.raises(Unavailable), one.connection() as connection:  # 25006
        connection.execute("create table public.one ()")


@pytest.mark.slow
def test_each_physical_connection_has_a_token_of_its_own_and_checkouts_have_none(
    rds: LocalRds, opened: ExitStack
) -> None:
    one = database(rds, opened)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(one.connection())
            time.sleep(1.05)  # a token's signature is of a second
    for _ in range(50):
        ask(one)
    assert rds.front.connections == 3
    assert len(set(rds.tokens)) == len(rds.tokens) == 3


@pytest.mark.slow
def test_a_token_that_expired_is_not_shown_again(rds: LocalRds, opened: ExitStack) -> None:
    one = database(rds, opened)
    pid = ask(one, "select pg_backend_pid()")
    first = rds.tokens[0]
    rds.ahead = timedelta(minutes=16)  # the token has expired, the connection lives on
    assert ask(one, "select pg_backend_pid()") == pid
    rds.ahead = timedelta(0)
    time.sleep(1.05)
    with one.connection() as connection, pytest.raises(psycopg.Error):
        connection.execute("select pg_terminate_backend(pg_backend_pid())")
    assert ask(one, "select pg_backend_pid()") != pid
    assert rds.tokens.count(first) == 1
    assert rds.refusals == []


def test_an_expired_token_would_be_refused(rds: LocalRds, opened: ExitStack) -> None:
    rds.ahead = timedelta(minutes=16)
    with pytest.raises(AuthenticationRefused):
        ask(database(rds, opened))
    assert rds.refusals == ["expired"] * 2


def test_through_a_tunnel_the_token_and_the_certificate_stay_the_real_endpoints(
    server: Server, world: World, tmp_path: Path, opened: ExitStack
) -> None:
    with _local_rds(server, tmp_path, names=[REAL_ENDPOINT[0]], endpoint=REAL_ENDPOINT) as rds:
        _parameters(*REAL_ENDPOINT)
        assert ask(database(rds, opened, tunnel=f"localhost:{rds.front.port}")) == (1,)
        assert rds.tokens[0].startswith(f"{REAL_ENDPOINT[0]}:{REAL_ENDPOINT[1]}/?")
        # A tunnel that ends at another server is noticed before a token is shown to it.
        shown = len(rds.tokens)
        _parameters("db.prod.internal", 5432)
        with pytest.raises(Permanent, match="RUNWAY_DB_CA_FILE"):
            ask(database(rds, opened, tunnel=f"127.0.0.1:{rds.front.port}"))
        assert len(rds.tokens) == shown


def test_a_refused_login_is_final_and_names_the_user(rds: LocalRds, opened: ExitStack) -> None:
    with pytest.raises(AuthenticationRefused, match="let user stranger in") as refused:
        ask(database(rds, opened, username="stranger"))
    assert len(rds.tokens) == 2  # one more, because RDS refuses good ones too
    assert "X-Amz-Signature" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("ca", ["another authority's", "the system's"])
@pytest.mark.usefixtures("endless_retries")
def test_a_server_that_nobody_vouches_for_is_shown_no_token(
    rds: LocalRds, opened: ExitStack, tmp_path: Path, ca: str
) -> None:
    other = str(new_authority(tmp_path / "other").certificate) if ca == "another authority's" else None
    with pytest.raises(Permanent, match="certificate that no trusted authority issued"):
        ask(database(rds, opened, ca_file=other))
    assert rds.tokens == []


def test_plaintext_is_refused_and_not_tried_again(rds: LocalRds, opened: ExitStack) -> None:
    one = PostgresResource(host="127.0.0.1", port=rds.front.port, database=DATABASE, username=USER, sslmode="disable")
    opened.callback(one.close)
    with pytest.raises(AuthenticationRefused):
        ask(one)
    assert rds.front.refused_plaintext == 1
    assert rds.front.connections == 0


def test_a_password_that_was_forgotten_is_a_refused_login_and_not_tried_again(rds: LocalRds, opened: ExitStack) -> None:
    one = PostgresResource(host="127.0.0.1", port=rds.front.port, database=DATABASE, username=USER, sslmode="require")
    opened.callback(one.close)
    with pytest.raises(AuthenticationRefused):
        ask(one)
    assert rds.front.connections == 1


def test_a_database_that_the_user_may_not_enter_is_a_refused_login(
    server: Server, rds: LocalRds, opened: ExitStack
) -> None:
    server.running.create_database("closed")
    with psycopg.connect(server.running.dsn(), autocommit=True) as admin:
        admin.execute("revoke connect on database closed from public")
    with pytest.raises(AuthenticationRefused):
        ask(database(rds, opened, database="closed"))
    assert len(rds.tokens) == 1


@pytest.mark.usefixtures("endless_retries")
def test_a_host_that_is_no_name_is_said_at_once(opened: ExitStack) -> None:
    one = PostgresResource(host="db..internal", database=DATABASE, username=USER)
    opened.callback(one.close)
    with pytest.raises(ConfigurationError, match="a host's name"):
        ask(one)


def test_who_is_told_to_stop_while_it_connects_does_not_try_again() -> None:
    attempts = []

    def interrupted() -> dict[str, Any]:
        attempts.append(1)
        raise KeyboardInterrupt

    healing = HealingPool(interrupted, {}, size=1, idle_seconds=1, wait_seconds=1)
    with pytest.raises(KeyboardInterrupt):
        healing.open()
    assert len(attempts) == 1


def test_a_locks_timeout_is_gone_with_the_lock(rds: LocalRds, opened: ExitStack) -> None:
    one = ApplicationDatabase(
        env="mirror", service=SERVICE, region=REGION, ca_file=str(rds.ca_file), pool_size=1, lock_timeout_ms=700
    )
    other = ApplicationDatabase(env="mirror", service=SERVICE, region=REGION, ca_file=str(rds.ca_file))
    opened.callback(one.close)
    opened.callback(other.close)
    with one.advisory_lock("a", 5) as connection:
        assert connection.execute("show lock_timeout").fetchone() == ("5s",)
    assert ask(one, "show lock_timeout") == ("700ms",)
    with other.advisory_lock("a", 5), pytest.raises(LockTimeout), one.advisory_lock("a", 1):
        pass
    assert ask(one, "show lock_timeout") == ("700ms",)
    assert rds.front.connections == 2


def test_a_server_without_tls_is_not_spoken_to(server: Server, world: World, rds: LocalRds, opened: ExitStack) -> None:
    _parameters("127.0.0.1", server.running.port)
    with pytest.raises(Permanent, match="no TLS"):
        ask(database(rds, opened))


@pytest.mark.parametrize(
    "content", [None, "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_file_that_is_none_is_named_before_anything_is_connected_to(
    rds: LocalRds, opened: ExitStack, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SecretMissing if content is None else SecretMalformed, match="RUNWAY_DB_CA_FILE"):
        ask(database(rds, opened, ca_file=str(path)))
    assert rds.front.connections == 0


def test_a_database_that_is_not_there_is_said_at_once(rds: LocalRds, opened: ExitStack) -> None:
    with pytest.raises(Permanent, match="no database of that name"):
        ask(database(rds, opened, database="no_such_database"))
    assert len(rds.tokens) == 1


@pytest.mark.slow
def test_a_server_that_is_not_there_is_tried_three_times(rds: LocalRds, opened: ExitStack) -> None:
    upstream, rds.front.upstream_port = rds.front.upstream_port, 1
    started = time.monotonic()
    with pytest.raises(Unavailable):
        ask(database(rds, opened))
    assert time.monotonic() - started >= 3
    assert len(rds.tokens) == 3
    rds.front.upstream_port = upstream
    assert ask(database(rds, opened)) == (1,)


def test_idle_connections_that_broke_are_replaced_without_failing_who_comes_next(
    server: Server, rds: LocalRds, opened: ExitStack
) -> None:
    # Drawn one by one, ten broken ones take longer still: the pool doubles its pause, from 1 s, after each.
    one = database(rds, opened, connect_timeout_seconds=PATIENCE_SECONDS)
    with ExitStack() as held:
        for _ in range(10):
            held.enter_context(one.connection())
    with psycopg.connect(server.running.dsn(), autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [USER])
    assert ask(one) == (1,)
    assert rds.front.connections <= 21


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [1, 10])
def test_a_connection_that_says_nothing_any_more_holds_nobody_up(
    server: Server, rds: LocalRds, opened: ExitStack, frozen: int
) -> None:
    """As behind a tunnel whose far end vanished: TCP is content, and nobody answers."""
    one = database(rds, opened, connect_timeout_seconds=12)
    with ExitStack() as held:
        for _ in range(frozen):
            held.enter_context(one.connection())
    with psycopg.connect(server.running.dsn(), autocommit=True) as admin:
        pids = admin.execute("select pid from pg_stat_activity where usename = %s", [USER]).fetchall()
    for (pid,) in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        answers: list[Any] = []
        caller = threading.Thread(target=lambda: answers.append(ask(one)), daemon=True)
        caller.start()
        join(caller)
        assert answers == [(1,)]
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_who_is_refused_later_is_told_so_and_not_that_the_pool_is_slow(rds: LocalRds, opened: ExitStack) -> None:
    one = database(rds, opened, connect_timeout_seconds=3)
    with one.connection():
        rds.ahead = timedelta(hours=1)
        with pytest.raises(AuthenticationRefused):
            ask(one)  # who holds the one that works is itself the one that waits
    assert len(set(rds.tokens)) > 1  # two minted in one second are the same
    rds.ahead = timedelta(0)
    assert ask(one) == (1,)


@pytest.mark.slow
def test_a_good_token_that_is_refused_is_minted_once_more(rds: LocalRds, opened: ExitStack) -> None:
    rds.refuse_next = 1
    one = database(rds, opened)
    with one.connection():
        rds.refuse_next = 1
        assert ask(one) == (1,)
    assert rds.refusals == ["a good one"] * 2
    assert len(rds.tokens) == 4
    assert len(set(rds.tokens)) >= 3  # what was refused is not shown again


@pytest.mark.slow
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_refused_login_fails_nobody_while_connections_work(rds: LocalRds, opened: ExitStack, for_ever: bool) -> None:
    one = database(rds, opened, connect_timeout_seconds=PATIENCE_SECONDS)
    with one.connection(), one.connection():
        pass
    if for_ever:
        rds.ahead = timedelta(hours=1)
    else:
        rds.refuse_next = 1
    failures: list[RunwayError] = []
    answers: list[Any] = []

    def call() -> None:
        try:
            answers.extend(ask(one, "select pg_sleep(0.3)") for _ in range(3))
        except RunwayError as error:
            failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    join(*callers)
    assert failures == []
    assert len(answers) == 24
    assert rds.refusals


@pytest.mark.slow
def test_who_is_refused_for_good_is_told_so_at_once_where_no_connection_works(rds: LocalRds, opened: ExitStack) -> None:
    one = database(rds, opened, connect_timeout_seconds=PATIENCE_SECONDS, idle_seconds=0.3)
    assert ask(one) == (1,)
    kept = one._client
    assert kept is not None
    wait_until(lambda: kept._pool.get_stats()["pool_size"] == 0)
    rds.ahead = timedelta(hours=1)
    with pytest.raises(AuthenticationRefused):
        ask(one)
    rds.ahead = timedelta(0)
    assert ask(one) == (1,)


@pytest.mark.slow
def test_a_server_killed_and_restarted_under_load_fails_nobody_who_was_not_in_the_middle(
    server: Server, rds: LocalRds, opened: ExitStack
) -> None:
    one = database(rds, opened, connect_timeout_seconds=PATIENCE_SECONDS)
    stop = threading.Event()
    calls: list[RunwayError | None] = []  # each one's error

    def load() -> None:
        while not stop.is_set():
            try:
                with one.connection() as connection:
                    connection.execute("select pg_sleep(0.01)")
                calls.append(None)
            except RunwayError as error:
                calls.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()

    wait_until(lambda: len(calls) >= 60)
    server.kill()
    rds.front.upstream_port = server.restart().port
    after = len(calls)
    wait_until(lambda: calls[after:].count(None) >= 60)
    stop.set()
    join(*threads)
    failed = [error for error in calls if error is not None]
    assert len(failed) <= len(threads)  # one statement of each thread at most was in the middle
    assert all(isinstance(error, Unavailable) and error.came != "no free connection" for error in failed)
    assert rds.refusals == []


def test_a_transaction_that_stands_idle_is_ended_and_its_connection_replaced(
    server: Server, rds: LocalRds, opened: ExitStack
) -> None:
    one = database(rds, opened, idle_in_transaction_ms=200)
    pid = ask(one, "select pg_backend_pid()")

    def dawdle() -> None:
        with one.connection() as connection, connection.transaction():
            connection.execute("select 1")
            with psycopg.connect(server.running.dsn(), autocommit=True) as admin:
                lives = "select from pg_stat_activity where pid = %s"
                wait_until(lambda: admin.execute(lives, pid).fetchone() is None)
            connection.execute("select 1")

    with pytest.raises(Unavailable) as ended:
        dawdle()
    assert ended.value.code == "25P03"
    assert ask(one, "select pg_backend_pid()") != pid


def test_the_contracts_settings_hold_in_every_session(rds: LocalRds, opened: ExitStack) -> None:
    names = "'idle_in_transaction_session_timeout', 'statement_timeout', 'lock_timeout', 'tcp_keepalives_idle'"
    statement = f"select array_agg(name || '=' || setting order by name) from pg_settings where name in ({names})"
    assert ask(database(rds, opened), statement) == (
        [
            "idle_in_transaction_session_timeout=30000",
            "lock_timeout=0",
            "statement_timeout=0",
            "tcp_keepalives_idle=30",
        ],
    )
    one = database(rds, opened, statement_timeout_ms=1500, lock_timeout_ms=700)
    assert ask(one, statement.replace("'tcp_keepalives_idle'", "''")) == (
        ["idle_in_transaction_session_timeout=30000", "lock_timeout=700", "statement_timeout=1500"],
    )


def test_a_setting_that_the_server_refuses_is_logged_and_the_others_stand(
    rds: LocalRds, opened: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    class Demanding(PostgresResource):
        def session_settings(self) -> dict[str, str]:
            return {"no_such_setting": "1", "max_connections": "5"} | super().session_settings()

    one = Demanding(env="mirror", service=SERVICE, region=REGION, ca_file=str(rds.ca_file), lock_timeout_ms=700)
    opened.callback(one.close)
    with caplog.at_level(logging.WARNING):
        assert ask(one, "select current_setting('lock_timeout')") == ("700ms",)
    refused = [record.message for record in caplog.records if "refuses the session setting" in record.message]
    assert [next(name for name in ("no_such_setting", "max_connections") if name in text) for text in refused] == [
        "no_such_setting",
        "max_connections",
    ]


def test_opening_a_live_pool_again_does_nothing_and_a_closed_one_opens_anew(rds: LocalRds, opened: ExitStack) -> None:
    one = database(rds, opened)
    one.open()
    one.open()
    ask(one)
    assert rds.front.connections == 1
    one.close()
    one.close()
    assert ask(one) == (1,)
    assert rds.front.connections == 2


def test_connections_that_nobody_uses_are_closed(rds: LocalRds, opened: ExitStack) -> None:
    assert PostgresResource(host="h").idle_seconds == 30
    one = database(rds, opened, idle_seconds=0.3)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(one.connection())
    assert one._client is not None
    kept = one._client
    wait_until(lambda: kept._pool.get_stats()["pool_size"] == 0)
    assert ask(one) == (1,)


@pytest.mark.slow
def test_more_callers_than_connections_wait_and_are_told_what_they_waited_for(rds: LocalRds, opened: ExitStack) -> None:
    one = database(rds, opened, pool_size=1, connect_timeout_seconds=3)
    with one.connection(), pytest.raises(Unavailable, match="no free connection"):
        ask(one)
    assert ask(one) == (1,)
    assert rds.front.connections == 1
