"""Everything that the pipeline depends on, tried over the real protocols: ``runway-pipelines doctor``.

What belongs here is one small check for each thing, and what to do where it fails; how findings are shown is the
command line's affair. A check that fails never stops the others, and no library's text becomes part of a finding: it
may quote a secret.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from runway_pipelines.credentials.edu_connection import EduConnection
from runway_pipelines.credentials.rotation import Unreadable
from runway_pipelines.errors import Permanent, PublicationRaced, RunwayError
from runway_pipelines.identity.verdicts import Library
from runway_pipelines.partner_tenants.keys import checked_part, is_valid_part, shown
from runway_pipelines.rosters.manifest import ROSTERS_PREFIX, SNAPSHOTS_PREFIX
from runway_pipelines.rosters.query import READABLE_SQL

if TYPE_CHECKING:
    import dagster as dg

    from runway_pipelines.identity.services import IdentityServices
    from runway_pipelines.partner_tenants.registry import Registry
    from runway_pipelines.resources.lml import LmlService
    from runway_pipelines.resources.object_store import ObjectStore, StoredDocument
    from runway_pipelines.resources.secrets_manager import PartnerSecrets
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

# Opening a session takes 20 s, nearly all of it waiting.
PARTNERS_AT_ONCE = 4
# No partner can have this name: a dot is not allowed in a partner id.
PROBE_FOLDER = ".doctor"
SHOWN_AT_MOST = 5

DATABASE_CHECKS = ("connection", "registry")
PARTNER_CHECKS = ("registry", "secret", "fields", "login", "tables")
DAGSTER_CHECKS = ("storage", "daemons")
ALL_CHECKS = "all"
SUBJECTS = ("application database", "bucket", "Secrets Manager", "partners", "LML", "catalogue", "Dagster")


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Seen:
    """What a check saw; ``fix`` says what to do about a warning or a failure."""

    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """One check of one subject ("partner acme"), and how long it took."""

    subject: str
    check: str
    status: Status
    detail: str
    fix: str = ""
    seconds: float = 0.0


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; warnings and what was skipped do not count."""
    return all(finding.status is not Status.FAILED for finding in findings)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for machines."""
    return {"is_healthy": is_healthy(findings), "findings": [asdict(finding) for finding in findings]}


def diagnose(
    open_services: Callable[[], AbstractContextManager[tuple[RosterServices, IdentityServices]]],
    partner_id: str | None = None,
) -> Iterator[Finding]:
    """`examine` the services that ``open_services`` gives; where it cannot, say why and skip everything else."""
    started = time.monotonic()
    with ExitStack() as opened:
        try:
            services, identity = opened.enter_context(open_services())
        except Exception as error:  # noqa: BLE001 - whatever keeps us from the services is what the doctor is to say
            yield _finding("settings", "load", seen_error(error), started)
            yield from (_skipped(subject, ALL_CHECKS, "load failed") for subject in SUBJECTS)
            return
        yield _examined("settings", "load", _see_settings)
        yield from examine(services, identity, partner_id)


def examine(services: RosterServices, identity: IdentityServices, partner_id: str | None = None) -> Iterator[Finding]:
    """Everything outside, in turn; of the partners all that the registry has, or ``partner_id`` alone."""
    registry = yield from examine_database(services)
    yield from examine_bucket(services.store)
    yield _examined("Secrets Manager", "list", lambda: _see_secrets_list(services.secrets))
    if partner_id is not None:
        yield from examine_partner(services, registry, partner_id)
    elif registry is None:
        yield _skipped("partners", ALL_CHECKS, "the registry could not be read")
    else:
        yield from examine_partners(services, registry)
    yield from examine_identity(identity)
    yield from examine_dagster(_settings().dagster_home)


def examine_database(services: RosterServices) -> Generator[Finding, None, Registry | None]:
    """The application's database; returns the registry, or None where it cannot be read."""
    read: list[Registry] = []

    def steps() -> Generator[Seen, None, None]:
        database = services.database
        with database.connection() as connection:
            connection.execute("select 1")
        yield Seen(Status.OK, f"user {database.user} in {database.database} at {database.host}:{database.port}")
        read.append(services.registry())
        yield seen_registry(read[0])

    yield from _in_turn("application database", DATABASE_CHECKS, steps())
    return read[0] if read else None


def seen_registry(registry: Registry) -> Seen:
    """How much is in the registry; a warning when there is nothing, or something that cannot be a key."""
    counts = f"{len(registry.partner_keys)} partners, {len(registry.tenant_keys)} tenants"
    if registry.skipped:
        return Seen(
            Status.WARNING,
            f"{counts}; left out, as they cannot be keys: {_some(registry.skipped)}",
            "correct these ids and codes in the application's database",
        )
    if not registry.partners:
        return Seen(
            Status.WARNING, counts, "switch cross_year_matching_enabled on for a partner, or see RUNWAY_APP_DB_NAME"
        )
    return Seen(Status.OK, counts)


def examine_bucket(store: ObjectStore) -> list[Finding]:
    """The bucket, by two small objects of this examination's own, which are removed whatever happens."""
    probe = _Probe(store)
    others = {
        "conditional write": probe.write_conditionally,
        "read": probe.read,
        "copy": probe.copy,
        "list": probe.list_keys,
        "pending uploads": probe.list_pending_uploads,
        "delete": probe.remove,
    }
    try:
        written = _examined("bucket", "write", probe.write)
        if written.status is Status.FAILED:
            return [written, *(_skipped("bucket", check, "write failed") for check in others)]
        return [written, *(_examined("bucket", check, look) for check, look in others.items())]
    finally:
        with suppress(RunwayError):
            probe.remove()


class _Probe:
    """Two keys of nobody else, where snapshots lie and where rosters are read, and what a run does with such."""

    def __init__(self, store: ObjectStore) -> None:
        name = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
        self._store = store
        self._source = f"{SNAPSHOTS_PREFIX}/{name}"
        self._target = f"{ROSTERS_PREFIX}/{name}"
        self._body = b'"runway-pipelines doctor"'
        self._to_remove = [self._source, self._target]

    def write(self) -> Seen:
        """Where nothing is."""
        self._store.write(self._source, self._body, replacing=None)
        return Seen(Status.OK, f"{self._store.bucket_name}, {SNAPSHOTS_PREFIX}/")

    def write_conditionally(self) -> Seen:
        """In place of what was read, and of nothing else: two runs must not both move a tenant's pointer."""
        read = self._read(self._source)
        for replacing in (None, replace(read, etag=f'"{"0" * 32}"')):
            with suppress(PublicationRaced):
                self._store.write(self._source, self._body, replacing=replacing)
                raise _not_s3("the refusal of a write whose condition does not hold", "a write that was done")
        self._store.write(self._source, self._body, replacing=read)
        return Seen(Status.OK, "done where its condition holds, refused where it does not")

    def read(self) -> Seen:
        """What was written."""
        return Seen(Status.OK, f"{len(self._read(self._source).body)} bytes, as written")

    def copy(self) -> Seen:
        """Within S3, and the copy is the same."""
        self._store.copy_object(self._source, self._target)
        self._read(self._target)
        return Seen(Status.OK, f"to {ROSTERS_PREFIX}/")

    def list_keys(self) -> Seen:
        """Without the permission to list, S3 does not say either that a key is not there."""
        if (keys := list(self._store.list_keys(self._source))) != [self._source]:
            raise _not_s3("the one key that was written in the list", f"{len(keys)} keys")
        if self._store.read(f"{self._source}.absent") is not None:
            raise _not_s3("nothing where nothing was written", "an object")
        return Seen(Status.OK, "what is there is listed, what is not there is said not to be")

    def list_pending_uploads(self) -> Seen:
        """A run must find what a killed one left; under the probe's key there is nothing to abort."""
        self._store.abort_pending_uploads(self._source)
        return Seen(Status.OK, "listed")

    def remove(self) -> Seen:
        """Both objects; once they are gone, a further call does nothing."""
        self._store.delete(self._to_remove)
        if left := [key for key in self._to_remove if self._store.read(key) is not None]:
            raise _not_s3("both objects to be gone", f"{len(left)} that are still there")
        self._to_remove = []
        return Seen(Status.OK, "nothing is left behind")

    def _read(self, key: str) -> StoredDocument:
        read = self._store.read(key)
        if read is None or read.body != self._body:
            raise _not_s3(
                f"in {self._store.uri(key)} what was written", "nothing" if read is None else "something else"
            )
        return read


def _not_s3(expected: str, came: str) -> Permanent:
    return Permanent(
        expected=expected,
        came=came,
        remedy="use a bucket of Amazon S3, or of a server that does as S3 does with conditions",
    )


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
    yield from _in_turn(f"partner {name}", PARTNER_CHECKS, _partner_steps(services, registry, partner_id))


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
        Status.OK, f"{secret.name}, version {secret.version_id}, {_previous_version(services.secrets, partner_id)}"
    )
    connection = EduConnection.parse(secret.name, secret.text)
    # `shown` cuts: 60 characters of a key that was put into the wrong field are its PEM header and nothing secret.
    account, user = shown(connection.account), shown(connection.username)
    yield Seen(Status.OK, f"account {account}, user {user}, and a private key that parses")
    tag = f"runway_pipelines doctor partner={partner_id}"
    session = services.snowflake.open_session(connection, secret_version_id=secret.version_id, query_tag=tag)
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


def _settings() -> Settings:
    from runway_pipelines.settings import load_settings

    return load_settings()


def _see_settings() -> Seen:
    settings = _settings()
    return Seen(
        Status.OK,
        f"environment {settings.env}, ENVLABEL {settings.envlabel or 'not set'}, region {settings.aws_region}",
    )


def _see_secrets_list(secrets: PartnerSecrets) -> Seen:
    """The list by which a rotation is noticed; raises what `PartnerSecrets.name` and AWS refuse."""
    from botocore.exceptions import BotoCoreError, ClientError

    from runway_pipelines.resources.aws_errors import raise_mapped

    prefix = secrets.name("_").removesuffix("_")
    try:
        answer = secrets.secrets_manager.get_client().list_secrets(
            MaxResults=1, Filters=[{"Key": "name", "Values": [prefix]}]
        )
    except (ClientError, BotoCoreError) as error:
        raise_mapped(f"list the secrets {prefix}*", error)
    # A page may be empty though there are more.
    if not answer["SecretList"] and "NextToken" not in answer:
        return Seen(
            Status.WARNING, f"there is no secret {prefix}*", "see whether ENVLABEL and AWS_REGION are the right ones"
        )
    return Seen(Status.OK, f"{prefix}*")


def examine_identity(identity: IdentityServices) -> Iterator[Finding]:
    """LML, by a question about one library, and the catalogue that its verdicts are written to."""
    if not identity.lml.base_url:
        yield from (
            _skipped(subject, ALL_CHECKS, "LIBRARY_METADATA_URL is not set") for subject in ("LML", "catalogue")
        )
        return
    yield _examined("LML", "answer", lambda: _see_lml(identity.lml))
    yield _examined("catalogue", "tables", lambda: _see_catalogue(identity))


def _see_lml(lml: LmlService) -> Seen:
    from runway_pipelines.identity.answers import parse_answer

    asked = [Library(1, None, "Stereolab", "Dots and Loops")]
    parse_answer(lml.resolve(asked, include_tracks=False).document, asked)
    return Seen(Status.OK, "one library looked up")


def _see_catalogue(identity: IdentityServices) -> Seen:
    """A nightly run's own question: how much is due."""
    from runway_pipelines.identity.options import IdentityOptions

    due = identity.due(IdentityOptions.model_validate({}), datetime.now(UTC))
    return Seen(Status.OK, f"{sum(due.values())} libraries due in {identity.catalogue_schema}")


def examine_dagster(home: str | None) -> Iterator[Finding]:
    """Dagster's own storage, and whether its daemons are alive."""
    if not home:
        yield from (_skipped("Dagster", check, "DAGSTER_HOME is not set") for check in DAGSTER_CHECKS)
        return

    def steps() -> Generator[Seen, None, None]:
        yield _see_in_dagster(_see_storage)
        yield _see_in_dagster(_see_daemons)

    yield from _in_turn("Dagster", DAGSTER_CHECKS, steps())


def _see_in_dagster(look: Callable[[dg.DagsterInstance], Seen]) -> Seen:
    """Look at the instance; of a failure only its type is told, for its text may quote a DSN."""
    import dagster as dg

    try:
        with _silence(), dg.DagsterInstance.get() as instance:
            return look(instance)
    except Exception as error:  # noqa: BLE001 - the storage is whatever dagster.yaml says, and so are its errors
        raise Permanent(
            expected="Dagster's storage to answer",
            came=type(error).__name__,
            remedy="compare DAGSTER_HOME's dagster.yaml, and the DAGSTER_PG_* that it reads, with the server",
        ) from None


def _see_storage(instance: dg.DagsterInstance) -> Seen:
    instance.get_run_ids(limit=1)
    return Seen(Status.OK, type(instance.run_storage).__name__)


def _see_daemons(instance: dg.DagsterInstance) -> Seen:
    return seen_daemons({name: bool(status.healthy) for name, status in instance.get_daemon_statuses().items()})


def seen_daemons(is_alive: Mapping[str, bool]) -> Seen:
    """What the heartbeats of the daemons that the instance needs say."""
    silent = sorted(name for name, alive in is_alive.items() if not alive)
    if silent:
        return Seen(
            Status.WARNING,
            f"no heartbeat of {', '.join(silent)}: schedules and sensors do not tick, queued runs do not start",
            "start dagster-daemon run with this DAGSTER_HOME",
        )
    return Seen(Status.OK, f"{len(is_alive)} of {len(is_alive)} alive")


@contextmanager
def _silence() -> Iterator[None]:
    """No logging: dagster-postgres logs each failed attempt with the driver's text."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _in_turn(subject: str, checks: Sequence[str], steps: Generator[Seen, None, None]) -> Iterator[Finding]:
    """A finding for each check, which takes one step; after one that failed, the others are skipped."""
    with closing(steps):
        for position, check in enumerate(checks):
            finding = _examined(subject, check, steps.__next__)
            yield finding
            if finding.status is Status.FAILED:
                yield from (_skipped(subject, later, f"{check} failed") for later in checks[position + 1 :])
                return


def _examined(subject: str, check: str, look: Callable[[], Seen]) -> Finding:
    """The finding of one check, whatever it meets."""
    started = time.monotonic()
    try:
        seen = look()
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others find
        seen = seen_error(error)
    return _finding(subject, check, seen, started)


def seen_error(error: Exception) -> Seen:
    """What an error says: of ours all, of others the type alone."""
    if isinstance(error, RunwayError):
        return Seen(Status.FAILED, f"expected {error.expected}; got {error.came}", error.remedy)
    return Seen(
        Status.FAILED,
        f"an error that was not foreseen: {type(error).__name__}",
        "try again; if it stays, report the name of this check and of the error to who maintains the pipeline",
    )


def _finding(subject: str, check: str, seen: Seen, started: float) -> Finding:
    return Finding(subject, check, seen.status, seen.detail, seen.fix, round(time.monotonic() - started, 2))


def _skipped(subject: str, check: str, reason: str) -> Finding:
    return Finding(subject, check, Status.SKIPPED, reason)


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_AT_MOST
    return ", ".join(names[:SHOWN_AT_MOST]) + (f" and {more} more" if more > 0 else "")
