"""What waits for a person, and what a person has announced: a tenant's hold, and a partner's expectations.

Both are documents in the bucket (publication guards contract, sections 1 and 3).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from runway_pipelines.errors import DecisionRefused, StoredObjectDamaged
from runway_pipelines.operations.wording import SHA256_SHOWN
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.freshness import moment_of
from runway_pipelines.rosters.guards import WAREHOUSE_MOVED
from runway_pipelines.rosters.manifest import (
    Signature,
    dump_document,
    expectations_key,
    hold_key,
    load_document,
)
from runway_pipelines.rosters.publication import READERS
from runway_pipelines.rosters.quality import CheckResult
from runway_pipelines.rosters.record import last_day
from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument
from runway_pipelines.systems.snowflake.connection import Place

MOST_TEXT = 200  # characters of a name or a reason
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})  # Unicode's controls, and what ends a line


@dataclass(frozen=True)
class HoldReason:
    """A guard that failed, and its numbers."""

    guard: str
    reason: str
    numbers: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hold:
    """A candidate that waits for a decision. Times are ISO 8601 in UTC.

    ``since`` and ``run_id`` are of the run that held it first; ``seen_at``, ``query_started_at``, ``secret_version_id``
    and ``place`` of the newest run to which the warehouse gave the same bytes. ``rejected`` says who decided against
    it.
    """

    sha256: str
    since: str
    run_id: str
    reasons: tuple[HoldReason, ...]
    published_sha256: str | None
    students: int
    seen_at: str
    query_started_at: str
    secret_version_id: str
    rejected: Signature | None = None
    place: Place | None = None

    @property
    def guards(self) -> tuple[str, ...]:
        """The guards that failed."""
        return tuple(each.guard for each in self.reasons)

    def has_rejected(self, sha256: str) -> bool:
        """Whether a person decided against these bytes."""
        return self.rejected is not None and self.sha256 == sha256

    @property
    def digits(self) -> str:
        """The candidate's sha256 as it is shown."""
        return self.sha256[:SHA256_SHOWN]

    @property
    def identity(self) -> str:
        """What makes two holds the same, so that operators are told once: the candidate and its guards."""
        return f"{self.digits} {','.join(self.guards)}"

    def said_of(self, tenant: PartnerTenant) -> str:
        """The hold in words, with its numbers and what to do."""
        if not self.sha256:
            return f"held, and held.json cannot be read: refresh {tenant}, which writes it anew"
        why = "; ".join(f"{each.guard}: {each.reason}" for each in self.reasons)
        if self.rejected is not None:
            said = f"the candidate {self.digits} was rejected {self.rejected.said} ({why})"
        else:
            said = f"held since {self.since[:16].replace('T', ' ')} UTC: {why}"
        return f"{said}. {self.what_to_do(tenant)}"

    def what_to_do(self, tenant: PartnerTenant) -> str:
        """How to end the hold, how to compare the candidate with what is published, and how to publish it."""
        if self.rejected is not None:
            return "To release it: correct the data in the warehouse, and refresh; another roster is judged anew"
        steps = ["If the load went wrong: have it mended, and the next refresh releases the roster"]
        if WAREHOUSE_MOVED in self.guards:
            wrong = f"If it is another partner's warehouse: correct the secret of {tenant.partner_id}, approve nothing"
            steps = [wrong, *steps]
        if self.published_sha256 is not None:
            steps.append(f"To see what would change: runway-pipelines rosters diff {tenant.quoted}")
        steps.append(
            f"To publish it all the same: runway-pipelines rosters approve {tenant.quoted} {self.digits} --reason '...'"
        )
        return ". ".join(steps)


UNREADABLE = Hold("", "", "", (HoldReason("unreadable", "held.json cannot be read"),), None, 0, "", "", "")


def held_for(results: Sequence[CheckResult]) -> tuple[HoldReason, ...]:
    """The reasons of a hold."""
    return tuple(HoldReason(result.rule.name, result.reason, result.numbers) for result in results)


def read_hold(store: ObjectStore, tenant: PartnerTenant) -> Hold | None:
    """The tenant's hold, or None. An unreadable one still holds; the next run writes it anew."""
    stored = store.read(hold_key(tenant))
    try:
        return None if stored is None else load_document(Hold, hold_key(tenant), stored.body)
    except StoredObjectDamaged:
        return UNREADABLE


def write_hold(store: ObjectStore, tenant: PartnerTenant, hold: Hold) -> None:
    """Write the hold, under the tenant's lock."""
    store.overwrite(hold_key(tenant), dump_document(hold))


def delete_hold(store: ObjectStore, tenant: PartnerTenant) -> None:
    """End the hold, under the tenant's lock."""
    store.delete([hold_key(tenant)])


def read_holds(store: ObjectStore, tenants: Sequence[PartnerTenant]) -> Iterator[tuple[PartnerTenant, Hold]]:
    """The holds of these tenants, in their order."""
    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="holds") as executor:
        for tenant, hold in zip(tenants, executor.map(lambda each: read_hold(store, each), tenants), strict=True):
            if hold is not None:
                yield tenant, hold


@dataclass(frozen=True)
class Expectation:
    """A change that is known to come: these guards' failures pass until ``until``. Without a tenant code, for all."""

    id: str
    guards: tuple[str, ...]
    until: str
    signature: Signature
    tenant_code: str | None = None

    def covers(self, tenant: PartnerTenant, guard: str, now: datetime) -> bool:
        """Whether it lets a tenant's candidate pass this guard now."""
        until = moment_of(self.until)
        of_tenant = self.tenant_code is None or self.tenant_code == tenant.tenant_code
        return until is not None and now < until and of_tenant and guard in self.guards

    def is_like(self, other: Expectation) -> bool:
        """Whether both let the same guards of the same tenants pass, up to the same day."""
        mine, others = ((each.tenant_code, each.guards, last_day(each.until)) for each in (self, other))
        return mine == others


@dataclass(frozen=True)
class Expectations:
    """All of one partner's."""

    expectations: tuple[Expectation, ...] = ()

    def covering(self, tenant: PartnerTenant, guard: str, now: datetime) -> Expectation | None:
        """The one that lets this guard pass, if any."""
        return next((each for each in self.expectations if each.covers(tenant, guard, now)), None)


def read_expectations(store: ObjectStore, partner_id: str) -> tuple[Expectations, StoredDocument | None]:
    """A partner's expectations, and the document to replace; raises `StoredObjectDamaged`."""
    key = expectations_key(partner_id)
    stored = store.read(key)
    return (Expectations() if stored is None else load_document(Expectations, key, stored.body)), stored


def write_expectations(
    store: ObjectStore, partner_id: str, expectations: Expectations, *, replacing: StoredDocument | None
) -> None:
    """Write them in place of what was read; raises `PublicationRaced`."""
    store.write(expectations_key(partner_id), dump_document(expectations), replacing=replacing)


def signed(decided_by: str, reason: str, now: datetime) -> Signature:
    """A signature; raises `DecisionRefused` for a name or a reason that is empty, too long, or not plain text."""
    for what, text in (("a name (decided_by)", decided_by), ("a reason", reason)):
        is_printable = _UNPRINTABLE.isdisjoint(map(unicodedata.category, text))
        # The commands that we print have '...' where the reason goes.
        if len(text.strip()) > MOST_TEXT or not is_printable or not any(map(str.isalnum, text)):
            raise DecisionRefused(
                expected=f"{what} in words, of 1 to {MOST_TEXT} characters in one line",
                came=f"{len(text)} characters",
                remedy="say who decides and why, without any student's data",
            )
    return Signature(decided_by.strip(), reason.strip(), now.isoformat(timespec="seconds"))
