"""A partner's credentials, tried before they are used for anything else (credentials contract, section 2)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.credentials.key_hygiene import KeyHygiene, KeyReport, key_hygiene
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import RunwayError, SecretMalformed
from runway_pipelines.systems.aws.secret_versions import PREVIOUS_STAGE, SecretVersion
from runway_pipelines.systems.snowflake.client import EduSnowflake
from runway_pipelines.systems.snowflake.connection import EduConnection, Place, is_elsewhere, known_as


@dataclass(frozen=True)
class Trial:
    """The result. ``error`` is None if the credentials work, ``connection`` if the secret is missing or malformed.

    ``previous_key`` describes the version behind AWSPREVIOUS, which is tried only if the current one failed.
    """

    partner_id: str
    error: RunwayError | None
    secret_version: str | None
    connection: EduConnection | None
    previous_key: str
    hygiene: KeyHygiene

    @property
    def code(self) -> str | None:
        """The driver's or the service's error code, or else the type of our error."""
        return None if self.error is None else self.error.code or type(self.error).__name__

    def moved_from(self, known: Collection[Place]) -> str | None:
        """What to say if the secret opens a warehouse other than the known ones; else None."""
        if self.connection is None or not is_elsewhere(self.connection.place, known):
            return None
        return (
            f"the secret opens {self.connection.place}; what is published came from {known_as(known)}. If the partner "
            "moved, approve the rosters that are held; if not, it is another partner's key: correct the secret"
        )


def try_credentials(
    partner_id: str,
    sessions: PartnerSessions,
    secrets: PartnerSecrets,
    snowflake: EduSnowflake,
    *,
    statement: str,
    now: datetime,
) -> Trial:
    """Connect and run ``statement``. The session stays open in ``sessions`` for further use. Raises nothing."""
    error: RunwayError | None = None
    try:
        sessions.prove(statement)
    except RunwayError as refusal:
        error = refusal
    secret = sessions.secret
    connection = _parsed(secret)
    previous, unreadable = _previous_version(secrets, partner_id)
    previous_connection = _parsed(previous)
    return Trial(
        partner_id=partner_id,
        error=error,
        secret_version=secret.secret_version if secret else None,
        connection=connection,
        previous_key=unreadable or _previous_key(snowflake, previous, previous_connection, is_needed=error is not None),
        hygiene=key_hygiene(
            connection,
            secret.created_at if secret else None,
            previous_connection,
            has_previous=previous is not None,
            now=now,
        ),
    )


def report_keys(secrets: PartnerSecrets, partner_id: str, *, now: datetime) -> KeyReport:
    """How old a partner's keys are, without connecting."""
    try:
        secret = secrets.require(partner_id)
        current = parse_connection(secret.name, secret.text)
    except RunwayError as error:
        return KeyReport(partner_id, trouble=error.came)
    previous, _ = _previous_version(secrets, partner_id)
    keys = key_hygiene(current, secret.created_at, _parsed(previous), has_previous=previous is not None, now=now)
    return KeyReport(partner_id, keys)


def _parsed(secret: SecretVersion | None) -> EduConnection | None:
    try:
        return parse_connection(secret.name, secret.text) if secret else None
    except SecretMalformed:
        return None


def _previous_version(secrets: PartnerSecrets, partner_id: str) -> tuple[SecretVersion | None, str | None]:
    """The version behind AWSPREVIOUS, or why it could not be read, which is never a reason to fail."""
    try:
        return secrets.read(partner_id, PREVIOUS_STAGE), None
    except RunwayError as error:
        return None, f"could not be read: {error.came}"


def _previous_key(
    snowflake: EduSnowflake, previous: SecretVersion | None, connection: EduConnection | None, *, is_needed: bool
) -> str:
    """Whether the old key still works. If so, the new one is to blame, and there is time to fix it."""
    if previous is None:
        return "there is none"
    if connection is None:
        return f"version {previous.secret_version} is malformed"
    if not is_needed:
        return f"version {previous.secret_version}, not tried: the current one works"
    try:
        snowflake.open_session(
            connection, secret_version=previous.secret_version, query_tag="runway_pipelines previous key"
        ).close()
    except RunwayError as error:
        return f"version {previous.secret_version} does not work either: {error.came}"
    except Exception as error:  # noqa: BLE001 - only a side note; its text may quote the secret
        return f"version {previous.secret_version} could not be tried: {type(error).__name__}"
    return f"version {previous.secret_version} still works"
