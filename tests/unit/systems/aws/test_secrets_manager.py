"""Partners' secrets over the real protocol: the current version, fresh, and nothing of a value in an error."""

import io
from typing import Any

import orjson
import pytest
from botocore.awsrequest import AWSResponse
from dagster_aws.secretsmanager import SecretsManagerResource

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.credentials.partner_secrets import DEVELOPMENT_VERSION, PartnerSecrets
from runway_pipelines.errors import ConfigurationError, InvalidKey, Permanent, SecretMalformed, Unavailable
from tests.factories import everything_said_by, secret_members, secret_text

CANARY = "c4n4ry"
NO_ENDPOINT = "http://127.0.0.1:1"


@pytest.fixture
def client(secrets: PartnerSecrets) -> Any:
    return secrets.secrets_manager.get_client()


def put(client: Any, name: str, text: str) -> str:
    """Create the secret; returns its version id."""
    return str(client.create_secret(Name=name, SecretString=text)["VersionId"])


def test_the_current_version_is_read_with_its_id(secrets: PartnerSecrets, client: Any, partner_id: str) -> None:
    secret_version = put(client, f"stg-edu-connection-info-{partner_id}", secret_text())
    read = secrets.read(partner_id)
    assert read is not None
    assert (read.name, read.secret_version) == (f"stg-edu-connection-info-{partner_id}", secret_version)
    assert parse_connection(read.name, read.text).username == "edu_reader"
    assert secret_members()["privateKey"] not in repr(read)


def test_a_version_is_current_when_the_stage_moves_to_it_and_not_when_it_is_put(
    secrets: PartnerSecrets, client: Any, partner_id: str
) -> None:
    name = secrets.name(partner_id)
    old = put(client, name, "old")
    new = client.put_secret_value(SecretId=name, SecretString="new", VersionStages=["AWSPENDING"])["VersionId"]
    assert secrets.read(partner_id).text == "old"  # type: ignore[union-attr]

    client.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT", MoveToVersionId=new, RemoveFromVersionId=old
    )
    read = secrets.read(partner_id)
    assert (read.secret_version, read.text) == (new, "new")  # type: ignore[union-attr]
    previous = secrets.read(partner_id, "AWSPREVIOUS")
    assert (previous.secret_version, previous.text) == (old, "old")  # type: ignore[union-attr]

    client.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT", MoveToVersionId=old, RemoveFromVersionId=new
    )
    assert secrets.read(partner_id).secret_version == old  # type: ignore[union-attr]


@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPREVIOUS"])
def test_the_stage_is_asked_for_by_name(
    stage: str, secrets: PartnerSecrets, partner_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = secrets.client
    asked: list[dict[str, Any]] = []
    client.meta.events.register("before-parameter-build.*.GetSecretValue", lambda params, **_: asked.append(params))
    _ = secrets.read(partner_id) if stage == "AWSCURRENT" else secrets.read(partner_id, stage)
    assert asked == [{"SecretId": f"stg-edu-connection-info-{partner_id}", "VersionStage": stage}]


def test_a_partner_without_a_secret_has_none(secrets: PartnerSecrets, partner_id: str) -> None:
    assert secrets.read(partner_id) is None


def test_another_environments_secret_is_not_ours(secrets: PartnerSecrets, client: Any, partner_id: str) -> None:
    put(client, f"prod-edu-connection-info-{partner_id}", secret_text())
    assert secrets.read(partner_id) is None


def set_development_secret(monkeypatch: pytest.MonkeyPatch, env: str = "development") -> None:
    monkeypatch.setenv("RUNWAY_ENV", env)
    for member in ("USERNAME", "ACCOUNT", "DATABASE", "SCHEMA"):
        monkeypatch.setenv(f"EDU_SNOWFLAKE_{member}", f"my {member}")
    monkeypatch.setenv("EDU_SNOWFLAKE_PRIVATE_KEY", secret_members()["privateKey"])


def test_in_development_the_variables_stand_in_for_a_secret_that_does_not_exist(
    secrets: PartnerSecrets, partner_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_development_secret(monkeypatch)
    read = secrets.read(partner_id)
    assert read is not None
    assert read.secret_version == DEVELOPMENT_VERSION
    assert read.name == f"EDU_SNOWFLAKE_* (there is no stg-edu-connection-info-{partner_id})"
    assert orjson.loads(read.text)["username"] == "my USERNAME"
    assert parse_connection(read.name, read.text).warehouse is None


def test_a_partners_own_secret_wins_over_the_variables(
    secrets: PartnerSecrets, client: Any, partner_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_development_secret(monkeypatch)
    put(client, secrets.name(partner_id), "not even JSON")
    assert secrets.read(partner_id).text == "not even JSON"  # type: ignore[union-attr]


def test_the_variables_do_not_stand_in_for_a_stage_of_a_secret_that_exists(
    secrets: PartnerSecrets, client: Any, partner_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_development_secret(monkeypatch)
    put(client, secrets.name(partner_id), secret_text())
    assert secrets.read(partner_id, "AWSPREVIOUS") is None


def test_outside_development_the_variables_stand_in_for_nothing(
    secrets: PartnerSecrets, partner_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_development_secret(monkeypatch, "production")
    assert secrets.read(partner_id) is None


@pytest.mark.parametrize("env", ["development", "production"])
def test_a_secret_pending_deletion_is_an_error_with_the_name_and_no_stand_in(
    env: str, secrets: PartnerSecrets, client: Any, partner_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_development_secret(monkeypatch, env)
    put(client, secrets.name(partner_id), secret_text(username=CANARY))
    client.delete_secret(SecretId=secrets.name(partner_id), RecoveryWindowInDays=7)
    with pytest.raises(Permanent) as refused:
        secrets.read(partner_id)
    assert refused.value.code == "InvalidRequestException"
    assert f"read secret stg-edu-connection-info-{partner_id}" in str(refused.value)
    assert "pending deletion" in str(refused.value)
    assert CANARY not in everything_said_by(refused.value)


def test_a_binary_secret_is_malformed_and_not_shown(secrets: PartnerSecrets, client: Any, partner_id: str) -> None:
    client.create_secret(Name=secrets.name(partner_id), SecretBinary=CANARY.encode())
    with pytest.raises(SecretMalformed, match=f"a text in secret stg-edu-connection-info-{partner_id}") as refused:
        secrets.read(partner_id)
    assert CANARY not in everything_said_by(refused.value)


@pytest.mark.parametrize("envlabel", [None, ""])
def test_without_an_environment_label_the_variable_is_named_and_nobody_is_asked(envlabel: str | None) -> None:
    secrets = PartnerSecrets(secrets_manager=SecretsManagerResource(endpoint_url=NO_ENDPOINT), envlabel=envlabel)
    for ask in (secrets.name, secrets.read):
        with pytest.raises(ConfigurationError, match="the variable ENVLABEL"):
            ask("acme")


@pytest.mark.parametrize("partner_id", ["..", "a/b", "", "acme*", "a" * 65, "acme\n"])
def test_an_unusable_partner_never_becomes_a_secrets_name(partner_id: str, secrets: PartnerSecrets) -> None:
    for ask in (secrets.name, secrets.read):
        with pytest.raises(InvalidKey):
            ask(partner_id)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "AccessDeniedException", Permanent),
        (400, "DecryptionFailure", Permanent),
        (400, "ThrottlingException", Unavailable),
        (500, "InternalServiceError", Unavailable),
    ],
)
def test_a_refusal_says_the_name_and_the_code_and_nothing_of_the_answer(
    status: int,
    code: str,
    error: type[Permanent] | type[Unavailable],
    secrets: PartnerSecrets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = secrets.client

    def refuse(request: Any, **_: Any) -> AWSResponse:
        raw = io.BytesIO(orjson.dumps({"__type": code, "message": CANARY}))
        raw.stream = lambda *args, **kwargs: iter([raw.getvalue()])  # type: ignore[attr-defined]
        return AWSResponse(request.url, status, {"content-type": "application/x-amz-json-1.1"}, raw)

    client.meta.events.register("before-send.secrets-manager.GetSecretValue", refuse)
    set_development_secret(monkeypatch)
    with pytest.raises(error) as refused:
        secrets.read("acme")
    assert refused.value.code == code
    assert "read secret stg-edu-connection-info-acme" in str(refused.value)
    assert CANARY not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_service_that_is_gone_is_unavailable_even_in_development(
    clean_environment: pytest.MonkeyPatch,
) -> None:
    set_development_secret(clean_environment)
    secrets = PartnerSecrets(
        secrets_manager=SecretsManagerResource(
            region_name="us-west-2",
            endpoint_url=NO_ENDPOINT,
            max_attempts=1,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        ),
        envlabel="stg",
    )
    with pytest.raises(Unavailable, match="read secret stg-edu-connection-info-acme; got EndpointConnectionError"):
        secrets.read("acme")
