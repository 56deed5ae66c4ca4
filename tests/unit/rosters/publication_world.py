"""One tenant whose rosters are refreshed and decided on over a bucket in memory, as fast as a property needs it.

All of `refresh` but the query is our own code, and so are `decisions` and the store over its client.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import IO, Any, cast

import pytest

from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import Permanent, StoredObjectDamaged
from runway_pipelines.rosters import refresh
from runway_pipelines.rosters.audit import changes
from runway_pipelines.rosters.decisions import Decision, DecisionContext, What, decide
from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.expecting import end_expectation, expect
from runway_pipelines.rosters.guards import GUARD_NAMES
from runway_pipelines.rosters.holds import Hold, read_expectations, read_hold
from runway_pipelines.rosters.manifest import ROSTERS_PREFIX, Pointer, manifest_key, snapshot_key
from runway_pipelines.rosters.outcome import Extract, RefreshContext, TenantOutcome
from runway_pipelines.rosters.pruning import prune_tenant, stored_snapshots
from runway_pipelines.rosters.publication import list_manifests, read_manifest, read_published
from runway_pipelines.rosters.purging import purge
from runway_pipelines.rosters.record import State
from runway_pipelines.rosters.refresh import refresh_tenant
from runway_pipelines.rosters.retention import LEAST_AGE, Retention
from runway_pipelines.systems.aws.object_store import FileDigest
from runway_pipelines.systems.postgres.databases import ApplicationDatabase
from runway_pipelines.systems.snowflake.connection import Place
from tests.factories import POLICY, TENANT, digest_of, roster_lines
from tests.memory_store import Killed, MemoryS3, memory_store

YEARS = (2025, 2026)
PLACES = (Place("ours", "EDU", "PROD"), Place("theirs", "EDU", "PROD"))
GUARDS = replace(POLICY.guards.guards, students_lost_least=2, students_added_least=4)


@dataclass(frozen=True)
class Roster:
    """Who is in it, and the codes of whom were given anew."""

    students: range
    recoded: range = range(0)

    @functools.cached_property
    def body(self) -> bytes:
        codes = {number: f"{'new' if number in self.recoded else 'old'}{number}" for number in self.students}
        return b"".join(roster_lines((f"S{n:03}", 7, [("Local", codes[n])]) for n in self.students))

    @functools.cached_property
    def digest(self) -> FileDigest:
        return digest_of(self.body)

    @property
    def sha256(self) -> str:
        return self.digest.sha256

    def is_held_beside(
        self, published: Roster | None, came_from: Place | None, comes_from: Place, largest: int = 0
    ) -> bool:
        """What the guards must say, told from the students themselves.

        ``largest`` is how many students the largest roster had of those that were published in the last days.
        """
        if published is None:
            return False
        old, new = set(published.students), set(self.students)
        lost, added, both = len(old - new), len(new - old), old & new
        in_steps = largest - len(new) if len(new) < len(old) else 0
        changed = sum((number in self.recoded) is not (number in published.recoded) for number in both)
        return (
            (lost / len(old) > GUARDS.students_lost and lost > GUARDS.students_lost_least)
            or (in_steps > GUARDS.students_lost_least and in_steps / largest > GUARDS.students_lost)
            or (added / len(old) > GUARDS.students_added and added > GUARDS.students_added_least)
            or (bool(both) and changed / len(both) > GUARDS.students_changed)
            or came_from != comes_from
        )


WHOLE = Roster(range(20))
ROSTERS = {
    "whole": WHOLE,
    "one more": Roster(range(21)),
    "two gone": Roster(range(2, 20)),
    "four gone": Roster(range(4, 20)),
    "half": Roster(range(10)),
    "doubled": Roster(range(40)),
    "recoded": Roster(range(20), range(20)),
    "others": Roster(range(50, 70)),
    "nobody": Roster(range(0)),
}
BY_SHA256 = {roster.sha256: roster for roster in ROSTERS.values()}


class Silent:
    """A run's log that nobody reads."""

    def info(self, message: str, **options: Any) -> None: ...
    def warning(self, message: str, **options: Any) -> None: ...
    def error(self, message: str, **options: Any) -> None: ...


class OneLock:
    """The database, as far as its locks are concerned."""

    def __init__(self) -> None:
        self._lock = Lock()

    @contextmanager
    def advisory_lock(self, name: str, wait_seconds: int) -> Iterator[OneLock]:
        with self._lock:
            yield self

    def execute(self, statement: str) -> None:
        """The lock is held still."""


class NoSession:
    """A partner's sessions, of which none is used."""

    @contextmanager
    def session(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class Step:
    """Something that happens to the tenant: a refresh that gets ``roster`` from a place, a pruning, or a decision.

    ``named`` is the sha256 (or the expectation) that the decision names; "held" stands for the candidate's.
    """

    what: str
    roster: str = "whole"
    place: int = 0
    named: str | None = None
    guards: tuple[str, ...] = GUARD_NAMES


@dataclass
class PublicationWorld:
    """The tenant. ``clock`` goes on by a minute with each step.

    ``places`` are the warehouses of the partner's other tenants, and ``has_left`` says that the tenant has no roster.
    """

    s3: MemoryS3 = field(default_factory=MemoryS3)
    clock: datetime = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
    places: tuple[Place, ...] = ()
    has_left: bool = False

    def __post_init__(self) -> None:
        self.store = memory_store(self.s3)
        self.database = cast("ApplicationDatabase", OneLock())

    def take(self, step: Step) -> TenantOutcome | None:
        """Make it happen; None for what was refused, and for what is no tenant's."""
        self.clock += timedelta(minutes=1)
        try:
            if step.what == "refresh":
                return self.refresh(ROSTERS[step.roster], PLACES[step.place])
            if step.what == "expect":
                expect(
                    self.decisions(), TENANT.partner_id, None, step.guards, self.clock + timedelta(hours=1), "Ann", "x"
                )
                return None
            if step.what == "end":
                for each in [step.named] if step.named else self.expected:
                    end_expectation(self.decisions(), TENANT.partner_id, each, "Ann", "over")
                return None
            if step.what == "prune":
                self.prune()
                return None
            named = self.hold.sha256 if step.named == "held" and self.hold else step.named
            return self.decide(What(step.what), named)
        except StoredObjectDamaged:
            raise
        except Permanent:
            return None  # it does not fit what is there, or names a snapshot that is not kept

    def killed_at(self, step: Step, change: int) -> bool:
        """Whether the step was killed before that change of the bucket; otherwise it came to its end."""
        self.s3.dies_before = self.s3.changes + change
        try:
            self.take(step)
        except Killed:
            return True
        else:
            return False
        finally:
            self.s3.dies_before = None

    def refresh(
        self, roster: Roster, place: Place = PLACES[0], query_started_at: datetime | None = None
    ) -> TenantOutcome:
        """A refresh to which the warehouse gives this roster, by a query of now or of then."""
        context = RefreshContext(
            self.store,
            self.database,
            f"run of {self.clock:%H:%M}",
            POLICY.thresholds,
            GUARDS,
            1,
            Silent(),
            places=lambda tenant: self.places,
            has_roster=lambda connection, tenant: not self.has_left,
            now=lambda: self.clock,
        )

        def extract(session: Any, tenant: Any, file: IO[bytes], **options: Any) -> Extract:
            file.write(roster.body)
            students = len(roster.students)
            counts = RosterCounts(
                lines=students, records=students, students=students, students_by_id_system=Counter(Local=students)
            )
            return Extract(roster.digest, counts, "q", query_started_at or self.clock, 0.1, "v1", place)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(refresh, "extract_roster", extract)
            return refresh_tenant(context, cast("PartnerSessions", NoSession()), TENANT, YEARS)

    def decide(self, what: What, sha256: str | None = None, by: str = "Ann") -> TenantOutcome:
        return decide(self.decisions(), TENANT, YEARS, Decision(what, by, "looked at it", sha256))

    def prune(self) -> None:
        """The retention job's turn, which keeps the newest. The bucket's clock is the real one."""
        soon = datetime.now(UTC) + 2 * LEAST_AGE
        for tenant, snapshots in stored_snapshots(self.store):
            prune_tenant(self.store, self.database, tenant, snapshots, Retention(1, 0), soon, "retention")

    def purge(self, *, with_snapshots: bool = True) -> None:
        """The tenant has left, and a person deletes what is published."""
        self.clock += timedelta(minutes=1)
        purge(self.decisions(), TENANT, with_snapshots=with_snapshots, decided_by="Ann", reason="left")

    def unfinished(self) -> list[str]:
        """What was begun and never completed, as a person reads it."""
        found = changes(self.store, TENANT.partner_id, self.clock)
        return [each.begun.what for each in found if each.state is State.UNFINISHED]

    @property
    def expected(self) -> list[str]:
        """The ids of what is expected."""
        return [each.id for each in read_expectations(self.store, TENANT.partner_id)[0].expectations]

    def decisions(self) -> DecisionContext:
        return DecisionContext(self.store, self.database, "decision", 1, lambda: self.clock)

    @property
    def hold(self) -> Hold | None:
        return read_hold(self.store, TENANT)

    @property
    def pointer(self) -> Pointer | None:
        published = read_published(self.store, TENANT)
        return published.pointer if published else None

    @property
    def copies(self) -> dict[str, bytes]:
        """What the consumers read, by key."""
        return {key: body for key, (body, _) in self.s3.objects.items() if key.startswith(ROSTERS_PREFIX)}

    def forked(self) -> PublicationWorld:
        """The same tenant, in a bucket of its own."""
        s3 = MemoryS3()
        s3.objects = dict(self.s3.objects)
        return PublicationWorld(s3, self.clock, self.places)

    def state(self) -> object:
        """All that counts of it: what is published, held and kept, and not when."""
        pointer, hold = self.pointer, self.hold
        return (
            pointer and (pointer.sha256, pointer.previous_sha256, pointer.pinned is not None, pointer.place),
            hold and (hold.sha256, hold.guards, hold.rejected is not None, hold.place),
            self.copies,
            sorted(each.sha256 for each in list_manifests(self.store, TENANT)),
            sorted(key for key in self.s3.objects if key.endswith(".jsonl")),
            len(self.expected),
        )

    def audited(self) -> list[str]:
        """What is on record, oldest first."""
        keys = (key for key in self.s3.objects if key.startswith("__roster_audit/"))
        return sorted(key.rsplit("/", 1)[1].split("-", 1)[1].rsplit("-", 1)[0] for key in keys)


def world_after(*steps: Step) -> PublicationWorld:
    """A tenant to whom all of this happened."""
    world = PublicationWorld()
    for step in steps:
        world.take(step)
    return world


def whole_copies(sha256: str) -> Sequence[bytes]:
    """What the consumers read while this snapshot is published."""
    return [BY_SHA256[sha256].body] * len(YEARS)


def kind_of(key: str) -> str:
    """What is stored under it."""
    endings = {
        "current.json": "pointer",
        "held.json": "hold",
        "expectations.json": "expectations",
        ".manifest.json": "manifest",
    }
    if key.startswith("__roster_audit/"):
        return "record"
    if key.startswith("__rosters/"):
        return "copy"
    return next((kind for ending, kind in endings.items() if key.endswith(ending)), "snapshot")


def done_name(step: Step, untouched: PublicationWorld) -> str | None:
    """What a person says again: the digits, or the expectation, that were said before."""
    if step.what == "end":
        return untouched.expected[0] if untouched.expected else None
    return untouched.hold.sha256 if step.named == "held" and untouched.hold else step.named


def assert_whole(world: PublicationWorld) -> None:
    """The pointer names a snapshot that is what its name says, with its manifest."""
    pointer = world.pointer
    if pointer is not None:
        body, _ = world.s3.objects[snapshot_key(TENANT, pointer.sha256)]
        assert body == BY_SHA256[pointer.sha256].body
        assert read_manifest(world.store, TENANT, pointer.sha256) is not None


def assert_settled(world: PublicationWorld) -> None:
    """Every year has what the pointer names; what is held is kept."""
    assert_whole(world)
    pointer, hold = world.pointer, world.hold
    if pointer is not None:
        assert list(world.copies.values()) == whole_copies(pointer.sha256)
    if hold is not None:
        assert snapshot_key(TENANT, hold.sha256) in world.s3.objects
        assert manifest_key(TENANT, hold.sha256) in world.s3.objects


WHOLE, HALF, MORE = (Step("refresh", name) for name in ("whole", "half", "one more"))
MOVED = Step("refresh", "whole", place=1)
APPROVE, REJECT = Step("approve", named="held"), Step("reject", named="held")
ROLLBACK, UNPIN, PRUNE = Step("rollback"), Step("unpin"), Step("prune")
TO_WHOLE = Step("rollback", named=ROSTERS["whole"].sha256)
