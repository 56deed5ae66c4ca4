"""Mishaps on a running stack, seen through the clients that the pipeline uses, and undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.errors import AuthenticationRefused
from runway_pipelines.local import breakage
from runway_pipelines.local.breakage import Mended, Practice
from runway_pipelines.local.dataset import SCHEMAS, STUDENTS, associations
from runway_pipelines.local.mishaps import stand_in
from runway_pipelines.local.partners import Partner, Tenant, synthetic_partners
from runway_pipelines.local.seed import partner_keys, seed_secrets, warehouse_folder, write_warehouse
from runway_pipelines.rosters.query import ASSOCIATIONS_TABLE
from runway_pipelines.settings import load_settings
from runway_pipelines.systems.snowflake.client import EduSnowflake
from runway_pipelines.wiring import build_services
from tests.integration.world import World
from tests.waiting import PATIENCE_SECONDS, wait_until

CLI = [sys.executable, "-m", "runway_pipelines.cli"]


class Client:
    """What the pipeline would read: its own clients of Secrets Manager and Snowflake, a new login for each look."""

    def __init__(self, secrets: PartnerSecrets, snowflake: EduSnowflake) -> None:
        self.secrets = secrets
        self._snowflake = snowflake

    def rows(self, partner_id: str, table: str, tenant_code: str) -> list[dict[str, Any]]:
        secret = self.secrets.require(partner_id)
        session = self._snowflake.open_session(
            parse_connection(secret.name, secret.text), secret_version=secret.secret_version, query_tag="test"
        )
        statement = f"select * from {table} where tenant_code = %(code)s"
        try:
            selection = session.select(statement, {"code": tenant_code}, query_tag="test")
            return [row for batch in selection.batches for row in batch.to_pylist()]
        finally:
            session.close()

    def students(self, partner_id: str, tenant_code: str) -> set[str]:
        rows = self.rows(partner_id, ASSOCIATIONS_TABLE, tenant_code)
        return {row["STUDENT_UNIQUE_ID"] for row in rows if row["STUDENT_UNIQUE_ID"]}


def generated_students(partner: Partner, tenant: Tenant) -> set[str]:
    return {one for one in associations(partner, tenant)["student_unique_id"].to_pylist() if one}


def client_of_environment() -> Client:
    load_settings.cache_clear()
    services = build_services(load_settings())
    return Client(services.secrets, services.snowflake)


# on the tests' own stack, with two small partners


@pytest.fixture
def partners() -> tuple[Partner, Partner]:
    """Both have `shared`; the second has nothing under `alone`."""
    name = uuid.uuid4().hex[:8]

    def partner(partner_id: str, *tenants: Tenant) -> Partner:
        return Partner(partner_id, partner_id, partner_id, "reader", "Edu", "stage", None, None, tenants)

    return (
        partner(f"one-{name}", Tenant("shared", 200), Tenant("alone", 90), Tenant("bare", 0)),
        partner(f"two-{name}", Tenant("shared", 120), Tenant("other", 80)),
    )


@pytest.fixture
def practice(world: World, partners: tuple[Partner, Partner]) -> Practice:
    state_dir = world.stack.state_dir
    keys = partner_keys(state_dir / "partner_keys", public_keys_file=world.stack.public_keys_file, partners=partners)
    write_warehouse(state_dir / "warehouse", partners=partners)
    client = breakage.local_secrets(os.environ)
    seed_secrets(client, "dev", keys, partners=partners)
    return Practice(state_dir, client, "dev", partners)


@pytest.fixture
def client(practice: Practice) -> Client:
    return client_of_environment()


def files(practice: Practice, partner: Partner) -> dict[str, tuple[bytes, int]]:
    """What is in the files of the partner's tables, and when they were written."""
    folder = warehouse_folder(practice.state_dir / "warehouse", partner)
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def contents(practice: Practice, partner: Partner) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files(practice, partner).items()}


def secret(client: Client, partner: Partner) -> tuple[str, str]:
    """The version and the value of the partner's secret."""
    version = client.secrets.require(partner.partner_id)
    return version.secret_version, version.text


def test_most_students_vanish_from_every_table_and_come_back(practice: Practice, client: Client) -> None:
    one, two = practice.partners
    before = contents(practice, one), files(practice, two), secret(client, one)
    everybody = client.students(one.partner_id, "shared")
    assert len(everybody) == 200
    others = client.students(one.partner_id, "alone")

    assert breakage.mass_loss(practice, one, one.tenants[0]) == 10
    left = client.students(one.partner_id, "shared")
    assert len(left) == 10 and left < everybody
    assert {row["STUDENT_UNIQUE_ID"] for row in client.rows(one.partner_id, STUDENTS, "shared")} == left
    assert client.students(one.partner_id, "alone") == others
    once = files(practice, one)
    assert breakage.mass_loss(practice, one, one.tenants[0]) == 10
    assert files(practice, one) == once

    assert breakage.mend(practice, one, one.tenants[0]) == Mended(tenants=(f"{one.partner_id}/shared",))
    assert client.students(one.partner_id, "shared") == everybody
    assert (contents(practice, one), files(practice, two), secret(client, one)) == before


def test_all_students_vanish_from_every_table_and_only_the_named_tenant_is_mended(
    practice: Practice, client: Client
) -> None:
    one, _ = practice.partners
    before = contents(practice, one)
    everybody = {code: client.students(one.partner_id, code) for code in ("shared", "alone")}
    breakage.empty(practice, one, one.tenants[0])
    breakage.empty(practice, one, one.tenants[1])
    for table in SCHEMAS:
        assert client.rows(one.partner_id, table, "shared") == client.rows(one.partner_id, table, "alone") == []

    breakage.mend(practice, one, one.tenants[1])
    assert client.students(one.partner_id, "shared") == set()
    assert client.students(one.partner_id, "alone") == everybody["alone"]
    assert breakage.mend(practice, one) == Mended(tenants=(f"{one.partner_id}/shared",))
    assert client.students(one.partner_id, "shared") == everybody["shared"]
    assert contents(practice, one) == before


def test_a_new_key_that_the_warehouse_does_not_know_is_refused_until_it_is_mended(
    practice: Practice, client: Client
) -> None:
    one, two = practice.partners
    data, (version, text) = files(practice, one), secret(client, one)
    new = breakage.unknown_key(practice, one)
    assert secret(client, one)[0] == new != version
    fields, known = json.loads(secret(client, one)[1]), json.loads(text)
    assert fields.pop("privateKey") != known.pop("privateKey")
    assert fields == known
    with pytest.raises(AuthenticationRefused) as refused:
        client.students(one.partner_id, "shared")
    assert refused.value.code == "390144"
    assert len(client.students(two.partner_id, "shared")) == 120

    assert breakage.mend(practice, one) == Mended(secrets=(one.partner_id,))
    assert len(client.students(one.partner_id, "shared")) == 200
    mended, same = secret(client, one)
    assert same == text
    assert mended not in (version, new)
    assert files(practice, one) == data


def test_a_wrong_key_reads_the_other_partners_students_under_the_same_code(practice: Practice, client: Client) -> None:
    one, two = practice.partners
    data, text = files(practice, two), secret(client, one)[1]
    own, others = client.students(one.partner_id, "shared"), client.students(two.partner_id, "shared")
    assert own != others

    assert breakage.wrong_warehouse(practice, one, one.tenants[:1]) is two
    assert secret(client, one)[1] == secret(client, two)[1]
    assert client.students(one.partner_id, "shared") == others
    assert client.students(one.partner_id, "alone") == set()
    assert files(practice, two) == data  # it has the code anyway

    assert breakage.mend(practice, one, one.tenants[0]) == Mended(secrets=(one.partner_id,))
    assert client.students(one.partner_id, "shared") == own
    assert secret(client, one)[1] == text


def test_a_code_that_the_other_warehouse_does_not_have_is_lent_to_it_until_it_is_mended(
    practice: Practice, client: Client
) -> None:
    one, two = practice.partners
    data = contents(practice, one), contents(practice, two)
    own = client.students(one.partner_id, "alone")
    others = {code: client.students(two.partner_id, code) for code in ("shared", "other")}

    breakage.wrong_warehouse(practice, one, one.tenants[:2])
    assert client.students(one.partner_id, "alone") == others["other"] != own
    assert client.students(one.partner_id, "shared") == others["shared"]
    for code, students in others.items():
        assert client.students(two.partner_id, code) == students

    mended = breakage.mend(practice, one)
    assert mended == Mended(lent_codes=(f"{two.partner_id}/alone",), secrets=(one.partner_id,))
    assert mended.partner_ids == (one.partner_id,)
    assert client.students(one.partner_id, "alone") == own
    assert client.students(two.partner_id, "alone") == set()
    assert (contents(practice, one), contents(practice, two)) == data


def test_a_wrong_key_works_though_the_other_partners_own_secret_is_broken(practice: Practice, client: Client) -> None:
    one, two = practice.partners
    breakage.unknown_key(practice, two)
    breakage.wrong_warehouse(practice, one, one.tenants[:1])
    assert len(client.students(one.partner_id, "shared")) == 120
    with pytest.raises(AuthenticationRefused):
        client.students(two.partner_id, "shared")
    # Another partner's mishap is not undone.
    assert breakage.mend(practice, one).secrets == (one.partner_id,)
    assert breakage.mend(practice, two).secrets == (two.partner_id,)


def test_what_is_right_is_not_written(practice: Practice, client: Client) -> None:
    one, two = practice.partners
    before = files(practice, one), files(practice, two), secret(client, one)
    assert breakage.mend(practice, one) == Mended()
    assert (files(practice, one), files(practice, two), secret(client, one)) == before
    assert write_warehouse(practice.state_dir / "warehouse", partners=practice.partners) is False


def test_the_next_start_of_the_stack_undoes_what_happened_to_the_data(practice: Practice, client: Client) -> None:
    one, two = practice.partners
    before = contents(practice, one), contents(practice, two)
    breakage.empty(practice, one, one.tenants[0])
    breakage.wrong_warehouse(practice, one, one.tenants[1:2])
    assert write_warehouse(practice.state_dir / "warehouse", partners=practice.partners) is True
    assert (contents(practice, one), contents(practice, two)) == before


def test_the_secrets_are_those_of_the_stack_whatever_else_configures_aws(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(os.environ)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://secretsmanager.invalid")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    client = breakage.local_secrets(environment)
    assert client.meta.endpoint_url == environment["AWS_ENDPOINT_URL"]
    assert client.list_secrets()["SecretList"]


# the commands, on a stack that another process runs

OWNER = """
import sys
from pathlib import Path
from runway_pipelines.local.signals import exit_on_termination
from runway_pipelines.local.session import local_session

with exit_on_termination(), local_session(Path(sys.argv[1])):
    print("running", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a stack with the whole data set, which another process runs."""
    folder = tmp_path_factory.mktemp("breakage")
    with (folder / "owner.log").open("wb") as log:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder / "state")],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: owner.poll() is not None or "running" in (folder / "owner.log").read_text())
        assert owner.poll() is None, (folder / "owner.log").read_text()
        yield folder / "state"
        children = psutil.Process(owner.pid).children(recursive=True)
        owner.communicate(b"\n", PATIENCE_SECONDS)
        assert psutil.wait_procs(children, timeout=PATIENCE_SECONDS)[1] == []
    finally:
        owner.kill()
        owner.wait()


@pytest.fixture
def local_client(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The pipeline's clients, pointed at that stack."""
    for name, value in json.loads((state / "environment.json").read_text())["environment"].items():
        monkeypatch.setenv(name, value)
    yield client_of_environment()
    load_settings.cache_clear()


def say(state: Path, *command: str) -> list[str]:
    """The lines that a command prints, which must succeed."""
    done = subprocess.run(
        [*CLI, "--local", "--state", str(state), *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


ACME, _, CASCADE = synthetic_partners()[:3]


@pytest.mark.slow
def test_break_mass_loss_and_mend_the_tenant(state: Path, local_client: Client) -> None:
    did, then = say(state, "break", "mass-loss", "acme/ashford")
    assert did == "acme/ashford: 250 of its 5,000 students are left in the local warehouse."
    assert "materialize rosters/partner_roster_index, partition acme" in then
    assert then.endswith(f"runway-pipelines --local --state {state} mend acme/ashford")
    assert len(local_client.students("acme", "ashford")) == 250
    did, then = say(state, "mend", "acme/ashford")
    assert did == "Mended: the rows of acme/ashford."
    assert local_client.students("acme", "ashford") == generated_students(ACME, ACME.tenants[0])


@pytest.mark.slow
def test_break_empty_and_mend_the_partner(state: Path, local_client: Client) -> None:
    did, then = say(state, "break", "empty", "cascade/ogdenville")
    assert did == "cascade/ogdenville: none of its 600 students is left in the local warehouse."
    assert "ogdenville is held" in then
    assert local_client.students("cascade", "ogdenville") == set()
    assert say(state, "mend", "cascade")[0] == "Mended: the rows of cascade/ogdenville."
    assert len(local_client.students("cascade", "ogdenville")) == 600
    assert say(state, "mend", "cascade") == ["Nothing was broken."]


@pytest.mark.slow
def test_break_rotate_and_mend(state: Path, local_client: Client) -> None:
    did, then = say(state, "break", "rotate", "cascade")
    version = local_client.secrets.require("cascade").secret_version
    assert did == f"cascade: version {version} of its secret has a key that the local warehouse does not know."
    assert "wait a minute for edu_credentials_rotated_sensor" in then and then.endswith("mend cascade")
    with pytest.raises(AuthenticationRefused):
        local_client.students("cascade", "ashford")
    assert say(state, "mend", "cascade")[0] == "Mended: the secret of cascade."
    assert len(local_client.students("cascade", "ashford")) == 900


@pytest.mark.slow
def test_break_wrong_warehouse_and_mend_everything(state: Path, local_client: Client) -> None:
    own = {tenant.code: local_client.students("cascade", tenant.code) for tenant in CASCADE.tenants}
    did, _ = say(state, "break", "wrong-warehouse", "cascade")
    assert did == (
        "cascade: its secret opens the warehouse of acme, which has students of its own under all 4 of its codes."
    )
    acme = {tenant.code: tenant for tenant in ACME.tenants}
    for tenant in CASCADE.tenants:
        theirs = acme.get(tenant.code) or stand_in(ACME, tenant)
        assert local_client.students("cascade", tenant.code) == generated_students(ACME, theirs)
    did, then = say(state, "mend")
    assert did == "Mended: the secret of cascade; 3 codes in another partner's warehouse, gone now."
    assert then == "See it: materialize rosters/partner_roster_index, partition cascade, in the Dagster UI."
    assert {tenant.code: local_client.students("cascade", tenant.code) for tenant in CASCADE.tenants} == own
    assert local_client.students("acme", "springfield") == set()


@pytest.mark.slow
def test_break_wrong_warehouse_for_one_tenant(state: Path, local_client: Client) -> None:
    assert say(state, "break", "wrong-warehouse", "acme/ashford")[0].endswith("under the code ashford.")
    assert local_client.students("acme", "ashford") == generated_students(CASCADE, CASCADE.tenants[2])
    assert say(state, "mend", "acme/ashford")[0] == "Mended: the secret of acme."
    assert len(local_client.students("acme", "ashford")) == 5000
