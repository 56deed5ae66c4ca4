"""Checks the application's database, Secrets Manager, and each partner from the registry to its warehouse tables."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.doctor.clock import Now, seen_clock, utc_now
from runway_pipelines.doctor.findings import CheckStatus, Finding, Seen, in_turn, seen_error
from runway_pipelines.errors import Permanent, RunwayError
from runway_pipelines.operations.wording import first_few, how_many
from runway_pipelines.partner_tenants.keys import checked_part, is_valid_part, shown
from runway_pipelines.rosters.index import PLACES_ASKED, PublishedPlaces
from runway_pipelines.rosters.query import READABLE_SQL
from runway_pipelines.systems.aws.secret_versions import PREVIOUS_STAGE, Unreadable
from runway_pipelines.systems.snowflake.connection import is_elsewhere, known_as

if TYPE_CHECKING:
    from runway_pipelines.credentials.partner_secrets import PartnerSecrets
    from runway_pipelines.partner_tenants.registry import Registry
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.systems.snowflake.client import EduSession
    from runway_pipelines.systems.snowflake.connection import Place

# Opening a session takes 20 s, nearly all of it waiting.
PARTNERS_AT_ONCE = 4
MOST_SHOWN = 5
DATABASE_CHECKS = ("connection", "clock", "registry")
PARTNER_CHECKS = ("registry", "secret", "fields", "login", "tables", "clock", "warehouse")
# Seconds since 1970: the one form in which no session's time zone has a say.
CLOCK_SQL = "select date_part(epoch_second, current_timestamp())"


def examine_database(services: RosterServices, now: Now = utc_now) -> Generator[Finding, None, Registry | None]:
    """Examine the application's database; returns the registry, or None if unreadable."""
    read: list[Registry] = []

    def steps() -> Generator[Seen, None, None]:
        database = services.database
        with database.connection() as connection:
            connection.execute("select 1")
        goal = database.destination()
        yield Seen(CheckStatus.OK, f"user {goal.username} in {goal.database} at {goal.host}:{goal.port}")
        yield seen_clock("Postgres'", lambda: _postgres_time(services), now)
        read.append(services.registry())
        yield seen_registry(read[0])

    yield from in_turn("application database", DATABASE_CHECKS, steps())
    return read[0] if read else None


def seen_registry(registry: Registry) -> Seen:
    """The registry's size; a warning if it is empty, or has ids that cannot be keys."""
    counts = f"{how_many(len(registry.partner_keys), 'partner')}, {how_many(len(registry.tenant_keys), 'tenant')}"
    if registry.skipped:
        return Seen(
            CheckStatus.WARNING,
            f"{counts}; left out because they cannot be keys: {first_few(registry.skipped, MOST_SHOWN)}",
            "correct these ids and codes in the application's database",
        )
    if not registry.partners:
        return Seen(
            CheckStatus.WARNING,
            counts,
            "switch cross_year_matching_enabled on for a partner, or check RUNWAY_APP_DB_NAME",
        )
    return Seen(CheckStatus.OK, counts)


def examine_partners(services: RosterServices, registry: Registry, now: Now = utc_now) -> Iterator[Finding]:
    """Examine all partners of the registry, a few concurrently; findings keep the partners' order."""

    def findings_of(partner_id: str) -> list[Finding]:
        return list(examine_partner(services, registry, partner_id, now))

    with ThreadPoolExecutor(PARTNERS_AT_ONCE) as threads:
        for findings in threads.map(findings_of, sorted(registry.partners)):
            yield from findings


def examine_partner(
    services: RosterServices, registry: Registry | None, partner_id: str, now: Now = utc_now
) -> Iterator[Finding]:
    """Examine one partner, from the registry (None if unreadable) to its warehouse tables."""
    name = partner_id if is_valid_part(partner_id) else shown(partner_id)
    yield from in_turn(f"partner {name}", PARTNER_CHECKS, _partner_steps(services, registry, partner_id, now))


def _partner_steps(
    services: RosterServices, registry: Registry | None, partner_id: str, now: Now
) -> Generator[Seen, None, None]:
    checked_part("partner_id", partner_id)
    yield seen_partner(registry, partner_id)
    secret = services.secrets.require(partner_id)
    looked = services.secrets.look(partner_id)
    if isinstance(looked, Unreadable):
        # The sensors need this permission to compare versions.
        raise Permanent(
            expected=f"secretsmanager:DescribeSecret on {secret.name}",
            came=looked.reason,
            remedy="grant the role the actions that docs/operations.md lists",
        )
    yield Seen(
        CheckStatus.OK,
        f"{secret.name}, version {secret.secret_version}, {_previous_version(services.secrets, partner_id)}",
    )
    connection = parse_connection(secret.name, secret.text)
    # A key in the wrong field stays secret: `shown` cuts after 60 characters, which are its PEM header.
    account, user = shown(connection.account), shown(connection.username)
    yield Seen(CheckStatus.OK, f"account {account}, user {user}, and a private key that parses")
    tag = f"runway_pipelines doctor partner={partner_id}"
    session = services.snowflake.open_session(connection, secret_version=secret.secret_version, query_tag=tag)
    with closing(session):
        yield Seen(CheckStatus.OK, "the key opens a session")
        for _ in session.select(READABLE_SQL, {}, query_tag=tag).batches:
            pass  # the driver reports some errors only while fetching
        yield Seen(CheckStatus.OK, "both tables, with every column that a roster needs")
        yield seen_clock("Snowflake's", lambda: _snowflake_time(session, tag), now)
    yield seen_warehouse(services, registry, partner_id, connection.place)


def _postgres_time(services: RosterServices) -> datetime | None:
    with services.database.connection() as connection:
        row = connection.execute("select clock_timestamp()").fetchone()
    return row[0] if row else None


def _snowflake_time(session: EduSession, tag: str) -> datetime | None:
    for batch in session.select(CLOCK_SQL, {}, query_tag=tag).batches:
        for seconds in batch.column(0).to_pylist():
            return datetime.fromtimestamp(float(seconds), UTC)
    return None


def seen_partner(registry: Registry | None, partner_id: str) -> Seen:
    """The partner's registry entry. A missing one is only a warning, because credentials may be tried in advance."""
    if registry is None:
        return Seen(CheckStatus.SKIPPED, "the registry is unreadable")
    try:
        partner = registry.partner(partner_id)
    except Permanent as error:
        return replace(seen_error(error), status=CheckStatus.WARNING)
    years = ", ".join(map(str, partner.published_years)) or "no school year"
    return Seen(CheckStatus.OK, f"{how_many(len(partner.tenant_codes), 'tenant')}, published for {years}")


def seen_warehouse(services: RosterServices, registry: Registry | None, partner_id: str, place: Place) -> Seen:
    """Whether the secret opens the warehouse that the published rosters come from: a key may be another partner's."""
    partner = registry.partners.get(partner_id) if registry else None
    if partner is None:
        return Seen(CheckStatus.SKIPPED, "the registry does not say which rosters it has")
    try:
        known = PublishedPlaces(services.store, partner, at_most=PLACES_ASKED)()
    except RunwayError:
        return Seen(CheckStatus.SKIPPED, "the bucket cannot be read")
    if not known:
        return Seen(CheckStatus.OK, "nothing is published yet to compare it with")
    if is_elsewhere(place, known):
        return Seen(
            CheckStatus.FAILED,
            f"the secret opens {place}; what is published came from {known_as(known)}",
            "correct the secret if it is another partner's key; if the partner moved, approve what is held",
        )
    return Seen(CheckStatus.OK, f"{place}, where the published rosters come from")


def _previous_version(secrets: PartnerSecrets, partner_id: str) -> str:
    """Whether there is a version to go back to. Never a failure, because no run needs it."""
    try:
        previous = secrets.read(partner_id, PREVIOUS_STAGE)
    except RunwayError:
        return "an unreadable previous version"
    return "no previous version" if previous is None else "a previous version exists"


def see_secrets_list(secrets: PartnerSecrets) -> Seen:
    """List secrets as the rotation sensor does; raises what `PartnerSecrets.name` and AWS raise."""
    from runway_pipelines.systems.aws.errors import aws_errors

    prefix = secrets.name("_").removesuffix("_")
    with aws_errors(f"list the secrets {prefix}*"):
        answer = secrets.client.list_secrets(MaxResults=1, Filters=[{"Key": "name", "Values": [prefix]}])
    # A page may be empty although more follow.
    if not answer["SecretList"] and "NextToken" not in answer:
        return Seen(CheckStatus.WARNING, f"there is no secret {prefix}*", "check ENVLABEL and AWS_REGION")
    return Seen(CheckStatus.OK, f"{prefix}*")
