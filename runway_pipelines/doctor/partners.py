"""The application's database, Secrets Manager and each partner: from the registry to its tables in the warehouse."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.doctor.findings import Finding, Seen, Status, in_turn, seen_error
from runway_pipelines.errors import Permanent, RunwayError
from runway_pipelines.operations.wording import first_few
from runway_pipelines.partner_tenants.keys import checked_part, is_valid_part, shown
from runway_pipelines.rosters.query import READABLE_SQL
from runway_pipelines.systems.aws.secret_versions import Unreadable

if TYPE_CHECKING:
    from runway_pipelines.credentials.partner_secrets import PartnerSecrets
    from runway_pipelines.partner_tenants.registry import Registry
    from runway_pipelines.rosters.services import RosterServices

# Opening a session takes 20 s, nearly all of it waiting.
PARTNERS_AT_ONCE = 4
MOST_SHOWN = 5
DATABASE_CHECKS = ("connection", "registry")
PARTNER_CHECKS = ("registry", "secret", "fields", "login", "tables")


def examine_database(services: RosterServices) -> Generator[Finding, None, Registry | None]:
    """The application's database; returns the registry, or None where it cannot be read."""
    read: list[Registry] = []

    def steps() -> Generator[Seen, None, None]:
        database = services.database
        with database.connection() as connection:
            connection.execute("select 1")
        goal = database.destination()
        yield Seen(Status.OK, f"user {goal.username} in {goal.database} at {goal.host}:{goal.port}")
        read.append(services.registry())
        yield seen_registry(read[0])

    yield from in_turn("application database", DATABASE_CHECKS, steps())
    return read[0] if read else None


def seen_registry(registry: Registry) -> Seen:
    """How much is in the registry; a warning when there is nothing, or something that cannot be a key."""
    counts = f"{len(registry.partner_keys)} partners, {len(registry.tenant_keys)} tenants"
    if registry.skipped:
        return Seen(
            Status.WARNING,
            f"{counts}; left out, as they cannot be keys: {first_few(registry.skipped, MOST_SHOWN)}",
            "correct these ids and codes in the application's database",
        )
    if not registry.partners:
        return Seen(
            Status.WARNING, counts, "switch cross_year_matching_enabled on for a partner, or see RUNWAY_APP_DB_NAME"
        )
    return Seen(Status.OK, counts)


def examine_partners(services: RosterServices, registry: Registry) -> Iterator[Finding]:
    """Every partner of the registry, a few at once, in order."""

    def findings_of(partner_id: str) -> list[Finding]:
        return list(examine_partner(services, registry, partner_id))

    with ThreadPoolExecutor(PARTNERS_AT_ONCE) as threads:
        for findings in threads.map(findings_of, sorted(registry.partners)):
            yield from findings


def examine_partner(services: RosterServices, registry: Registry | None, partner_id: str) -> Iterator[Finding]:
    """One partner, from its place in the registry (None: it could not be read) to its tables in the warehouse."""
    name = partner_id if is_valid_part(partner_id) else shown(partner_id)
    yield from in_turn(f"partner {name}", PARTNER_CHECKS, _partner_steps(services, registry, partner_id))


def _partner_steps(services: RosterServices, registry: Registry | None, partner_id: str) -> Generator[Seen, None, None]:
    checked_part("partner_id", partner_id)
    yield seen_partner(registry, partner_id)
    secret = services.secrets.require(partner_id)
    looked = services.secrets.look(partner_id)
    if isinstance(looked, Unreadable):
        # The sensors compare versions by it.
        raise Permanent(
            expected=f"secretsmanager:DescribeSecret on {secret.name}",
            came=looked.reason,
            remedy="grant the role the actions that docs/operations.md lists",
        )
    yield Seen(
        Status.OK, f"{secret.name}, version {secret.secret_version}, {_previous_version(services.secrets, partner_id)}"
    )
    connection = parse_connection(secret.name, secret.text)
    # `shown` cuts: 60 characters of a key that was put into the wrong field are its PEM header and nothing secret.
    account, user = shown(connection.account), shown(connection.username)
    yield Seen(Status.OK, f"account {account}, user {user}, and a private key that parses")
    tag = f"runway_pipelines doctor partner={partner_id}"
    session = services.snowflake.open_session(connection, secret_version=secret.secret_version, query_tag=tag)
    with closing(session):
        yield Seen(Status.OK, "a session was opened with the key")
        for _ in session.select(READABLE_SQL, {}, query_tag=tag).batches:
            pass  # the driver says some errors only when the answer is fetched
        yield Seen(Status.OK, "both tables, with every column that a roster is made of")


def seen_partner(registry: Registry | None, partner_id: str) -> Seen:
    """What the registry says of a partner; a warning when nothing, for its credentials may be tried beforehand."""
    if registry is None:
        return Seen(Status.SKIPPED, "the registry could not be read")
    try:
        partner = registry.partner(partner_id)
    except Permanent as error:
        return replace(seen_error(error), status=Status.WARNING)
    years = ", ".join(map(str, partner.published_years)) or "no school year"
    return Seen(Status.OK, f"{len(partner.tenant_codes)} tenants, published for {years}")


def _previous_version(secrets: PartnerSecrets, partner_id: str) -> str:
    """Whether there is something to go back to; not worth a failure, for no run needs it."""
    try:
        return "no previous version" if secrets.read(partner_id, "AWSPREVIOUS") is None else "a previous version exists"
    except RunwayError:
        return "a previous version that cannot be read"


def see_secrets_list(secrets: PartnerSecrets) -> Seen:
    """The list by which a rotation is noticed; raises what `PartnerSecrets.name` and AWS refuse."""
    from runway_pipelines.systems.aws.errors import aws_errors

    prefix = secrets.name("_").removesuffix("_")
    with aws_errors(f"list the secrets {prefix}*"):
        answer = secrets.client.list_secrets(MaxResults=1, Filters=[{"Key": "name", "Values": [prefix]}])
    # A page may be empty though there are more.
    if not answer["SecretList"] and "NextToken" not in answer:
        return Seen(
            Status.WARNING, f"there is no secret {prefix}*", "see whether ENVLABEL and AWS_REGION are the right ones"
        )
    return Seen(Status.OK, f"{prefix}*")
