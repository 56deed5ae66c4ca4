"""The local Snowflake refuses what the real one refuses, and a failed statement is an error, not an endless retry."""

import base64
import concurrent.futures
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import snowflake.connector
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from snowflake.connector.errors import DatabaseError, ProgrammingError

from runway_pipelines.local.snowflake_login import fingerprint
from runway_pipelines.local.stack import EmbeddedStack
from tests.waiting import PATIENCE_SECONDS

ACCOUNT, USER = "TESTACME", "LOADER"


class KeyPair:
    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def der(self) -> bytes:
        return self._private_bytes(serialization.Encoding.DER)

    @property
    def base64_pem(self) -> str:
        return base64.b64encode(self.pem).decode()

    @property
    def pem(self) -> bytes:
        return self._private_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._private.public_key())

    @property
    def public_pem(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._private.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def _private_bytes(self, encoding: serialization.Encoding) -> bytes:
        return self._private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@pytest.fixture(scope="module")
def keys(stack: EmbeddedStack) -> tuple[KeyPair, KeyPair]:
    """Two registered keys of TESTACME.LOADER, and a table of three rows in ANALYTICS.PROD."""
    pair = (KeyPair(), KeyPair())
    register(stack, *pair)
    folder = stack.warehouse_dir / ACCOUNT / "ANALYTICS" / "PROD"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "name": ["b", "a", "a"], "note": ["x", None, "é"]})
    pq.write_table(table, folder / "students.parquet")
    return pair


def register(stack: EmbeddedStack, *keys: KeyPair) -> None:
    registered = json.loads(stack.public_keys_file.read_text())
    registered[f"{ACCOUNT}.{USER}"] = [key.public_pem for key in keys]
    stack.public_keys_file.write_text(json.dumps(registered))


def connect(stack: EmbeddedStack, key: KeyPair, **changes: Any) -> snowflake.connector.SnowflakeConnection:
    options = {
        "account": ACCOUNT.lower(),
        "user": USER.lower(),
        "private_key": key.der,
        "database": "analytics",
        "schema": "prod",
        "host": stack.snowflake_host,
        "port": stack.snowflake_port,
        "protocol": "http",
        "login_timeout": 20,
        "network_timeout": 30,
        "session_parameters": {"QUERY_TAG": "runway"},
    }
    return snowflake.connector.connect(**{**options, **changes})


def post_as_node_driver(stack: EmbeddedStack, key: KeyPair) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Log in as Runway's own driver does, and return what posts a statement in that session."""
    url = f"http://{stack.snowflake_host}:{stack.snowflake_port}"
    claims = {"iss": f"{ACCOUNT}.{USER}.{key.fingerprint}", "sub": f"{ACCOUNT}.{USER}", "exp": int(time.time()) + 60}
    login = {
        "CLIENT_APP_ID": "JavaScript",
        "ACCOUNT_NAME": ACCOUNT,
        "LOGIN_NAME": USER,
        "AUTHENTICATOR": "SNOWFLAKE_JWT",
        "TOKEN": jwt.encode(claims, key.pem, algorithm="RS256"),
    }
    names = {"databaseName": "ANALYTICS", "schemaName": "PROD"}
    answer = httpx.post(f"{url}/session/v1/login-request", params=names, json={"data": login}, trust_env=False).json()
    headers = {"Authorization": f'Snowflake Token="{answer["data"]["token"]}"'}

    def post(statement: dict[str, Any]) -> dict[str, Any]:
        route = f"{url}/queries/v1/query-request"
        return dict(httpx.post(route, headers=headers, json=statement, trust_env=False).json())

    return post


@pytest.fixture
def session(stack: EmbeddedStack, keys: tuple[KeyPair, KeyPair]) -> Iterator[snowflake.connector.SnowflakeConnection]:
    with connect(stack, keys[0]) as connection:
        yield connection


@pytest.mark.parametrize("which", [0, 1])
def test_either_of_a_users_two_registered_keys_logs_in(stack, keys, which):
    with connect(stack, keys[which]) as connection:
        assert connection.cursor().execute("select 1").fetchall() == [(1,)]


def test_another_key_is_refused_and_works_once_it_is_registered(stack, keys):
    other = KeyPair()
    with pytest.raises(DatabaseError) as refused:
        connect(stack, other)
    assert refused.value.errno == 390144
    register(stack, keys[1], other)
    try:
        connect(stack, other).close()
        with pytest.raises(DatabaseError):
            connect(stack, keys[0])
    finally:
        register(stack, *keys)


@pytest.mark.parametrize("change", [{"account": "other"}, {"user": "somebody"}])
def test_a_key_is_good_for_its_own_account_and_user_only(stack, keys, change):
    with pytest.raises(DatabaseError) as refused:
        connect(stack, keys[0], **change)
    assert refused.value.errno == 390144


def test_a_password_is_no_way_in(stack, keys):
    with pytest.raises(DatabaseError) as refused:
        connect(stack, keys[0], private_key=None, password="guess")
    assert refused.value.errno == 390100


def test_dagsters_resource_connects(stack, keys):
    from runway_pipelines.systems.snowflake.resource import snowflake_resource

    endpoint = {"host": stack.snowflake_host, "port": stack.snowflake_port, "protocol": "http"}
    resource = snowflake_resource()(
        account=ACCOUNT,
        user=USER,
        private_key=keys[0].base64_pem,
        database="analytics",
        schema="prod",
        additional_snowflake_connection_args=endpoint,
    )
    with resource.get_connection() as connection:
        assert connection.cursor().execute("select count(*) from students").fetchall() == [(3,)]


def test_columns_have_snowflakes_names_and_types(session):
    cursor = session.cursor().execute("select * from students order by id")
    assert [(column.name, column.type_code) for column in cursor.description] == [("ID", 0), ("NAME", 2), ("NOTE", 2)]
    assert cursor.fetchall() == [(1, "b", "x"), (2, "a", None), (3, "a", "é")]
    listed = session.cursor().execute(
        "select column_name, data_type from information_schema.columns where table_name = 'STUDENTS' order by 1"
    )
    assert listed.fetchall() == [("ID", "NUMBER"), ("NAME", "TEXT"), ("NOTE", "TEXT")]


def test_values_bind_on_the_client_and_on_the_server(stack, keys, session, monkeypatch):
    text = "select id from students where name = {} and id > {} order by id"
    client_side = session.cursor().execute(text.format("%(name)s", "%(id)s"), {"name": "a", "id": 2}).fetchall()
    with connect(stack, keys[0], paramstyle="qmark") as connection:
        server_side = connection.cursor().execute(text.format("?", "?"), ("a", 2)).fetchall()
    assert client_side == server_side == [(3,)]


def test_the_sql_of_a_roster_runs(session):
    latest = session.cursor().execute(
        "select s.id, t.note from students s left join students t on t.id = s.id + 1 "
        "qualify row_number() over (partition by s.name order by s.id desc) = 1 order by s.id"
    )
    assert latest.fetchall() == [(1, None), (3, None)]


@pytest.mark.parametrize(("change", "errno"), [({"database": "nowhere"}, 90105), ({"schema": "nowhere"}, 90106)])
def test_an_unknown_database_or_schema_fails_when_it_is_queried(stack, keys, change, errno):
    with connect(stack, keys[0], **change) as connection, pytest.raises(ProgrammingError) as failed:
        connection.cursor().execute("select * from students")
    assert failed.value.errno == errno


@pytest.mark.parametrize(
    ("statement", "errno"),
    [
        ("select * from nowhere", 2003),
        ("select nothing from students", 2043),
        ("selec 1", 1003),
        ("select cast('S0604921' as int)", 100035),
        ("select parse_json('{604921')", 261000),
    ],
)
def test_a_failing_statement_is_an_error_at_once_and_names_no_value(session, statement, errno):
    with pytest.raises(ProgrammingError) as failed:
        session.cursor().execute(statement)
    assert failed.value.errno == errno
    assert "604921" not in str(failed.value)


def test_a_closed_session_is_gone(stack, session):
    assert session.cursor().execute("select 1").fetchall() == [(1,)]
    token = session.rest.token
    session.close()
    answer = httpx.post(
        f"http://{stack.snowflake_host}:{stack.snowflake_port}/queries/v1/query-request",
        headers={"Authorization": f'Snowflake Token="{token}"'},
        json={"sqlText": "select 1"},
        trust_env=False,
    )
    assert (answer.status_code, answer.json()["code"]) == (200, "390111")


def test_a_session_of_the_node_driver_gets_its_rows_in_json(stack, keys):
    post = post_as_node_driver(stack, keys[0])
    answer = post(
        {
            "sqlText": "select * from students where id <> ? order by id",
            "bindings": {"1": {"type": "FIXED", "value": "2"}},
        }
    )
    assert answer["success"]
    data = answer["data"]
    assert [column["name"] for column in data["rowtype"]] == ["ID", "NAME", "NOTE"]
    assert (data["queryResultFormat"], data["returned"], data["total"]) == ("json", 2, 2)
    assert data["rowset"] == [["1", "b", "x"], ["3", "a", "é"]]
    assert "rowsetBase64" not in data
    nothing = post({"sqlText": "select * from students where id > 3"})["data"]
    assert (nothing["queryResultFormat"], nothing["rowset"], nothing["total"]) == ("json", [], 0)


def test_every_value_of_a_json_row_is_text_or_null(stack, keys):
    answer = post_as_node_driver(stack, keys[0])(
        {
            "sqlText": "select 1.50::number(10, 2), 0.25::float, true, null, '0012', '2026-01-02'::date, "
            "'1969-12-31 23:59:59.5'::timestamp_ntz, '2026-01-02 03:04:05'::timestamp_tz, '00:00:01.5'::time"
        }
    )
    numbers, rest = answer["data"]["rowset"][0][:2], answer["data"]["rowset"][0][2:]
    assert numbers == ["1.50", "0.25"]
    assert rest[:4] == ["1", None, "0012", "20455"]
    assert rest[4:] == ["-0.500000000", "1767323045.000000000 1440", "1.500000000"]


@pytest.mark.slow
def test_sessions_at_work_together_get_their_own_rows(stack, keys):
    def ask(number: int) -> bool:
        with connect(stack, keys[0]) as connection:
            return all(connection.cursor().execute(f"select {number}").fetchall() == [(number,)] for _ in range(20))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


def test_a_changed_table_is_seen_by_the_next_session(stack, keys):
    path = stack.warehouse_dir / ACCOUNT / "ANALYTICS" / "PROD" / "changing.parquet"
    for count in (1, 2):
        pq.write_table(pa.table({"id": list(range(count))}), path)
        with connect(stack, keys[0]) as connection:
            assert connection.cursor().execute("select count(*) from changing").fetchall() == [(count,)]


def test_a_damaged_table_stops_every_login_until_it_is_mended_and_then_all_that_changed_is_there(stack, keys):
    damaged, other = (stack.warehouse_dir / ACCOUNT / "ANALYTICS" / "PROD" / f"{name}.parquet" for name in ("aa", "zz"))
    for path in (damaged, other):
        pq.write_table(pa.table({"id": [1]}), path)
    connect(stack, keys[0]).close()
    pq.write_table(pa.table({"id": [1, 2]}), other)
    damaged.write_bytes(b"no parquet")
    try:
        for _ in range(2):
            with pytest.raises(snowflake.connector.errors.Error):
                connect(stack, keys[0])
    finally:
        pq.write_table(pa.table({"id": [1, 2]}), damaged)
    with connect(stack, keys[0]) as connection:
        for table in ("aa", "zz"):
            assert connection.cursor().execute(f"select count(*) from {table}").fetchall() == [(2,)]


def test_a_session_that_is_closed_stops_the_statement_that_it_runs(stack, keys):
    connection = connect(stack, keys[0])
    endless = "select sum(a0.id) from " + " cross join ".join(f"students a{number}" for number in range(30))
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        running = executor.submit(connection.cursor().execute, endless)
        time.sleep(1)
        assert not running.done()
        connection.close()
        with pytest.raises(Exception):  # noqa: B017, PT011 - the driver's own, of several kinds
            running.result(PATIENCE_SECONDS)
    with connect(stack, keys[0]) as other:
        assert other.cursor().execute("select 1").fetchall() == [(1,)]
