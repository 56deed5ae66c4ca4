"""What a run finds of its tenant under the lock: what is published, what is held, and whose query is newer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from runway_pipelines.errors import StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.freshness import ahead_of, moment_of
from runway_pipelines.rosters.holds import Hold, read_hold
from runway_pipelines.rosters.manifest import Manifest, Pointer, Signature, pointer_key, stable_key
from runway_pipelines.rosters.outcome import RefreshContext
from runway_pipelines.rosters.publication import Published, parse_published, read_manifest
from runway_pipelines.systems.aws.object_store import StoredDocument


@dataclass(frozen=True)
class Standing:
    """A tenant as a run finds it. ``stored`` is the pointer's document, which a publication replaces.

    ``wrong_clock`` is what to say of a pointer from the future, which supersedes nothing. Otherwise one run with a fast
    clock would have all later runs discarded until that time.
    """

    stored: StoredDocument | None
    published: Published | None
    hold: Hold | None
    wrong_clock: str | None

    @property
    def is_first(self) -> bool:
        """Whether nothing was ever published; a pointer that cannot be read does not count as nothing."""
        return self.stored is None and self.published is None

    @property
    def pointer(self) -> Pointer | None:
        """The pointer to what is published."""
        return self.published.pointer if self.published else None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of what is published, if it can be read."""
        return self.published.manifest if self.published else None

    @property
    def pinned(self) -> Signature | None:
        """Who pinned what is published, if somebody did."""
        return self.published.pointer.pinned if self.published else None

    def published_after(self, query_started_at: datetime) -> Pointer | None:
        """The pointer, if what is published comes from a later query."""
        is_newer = self.pointer is not None and not self.wrong_clock and self.pointer.is_newer_than(query_started_at)
        return self.pointer if is_newer else None

    def held_after(self, query_started_at: datetime, now: datetime) -> Hold | None:
        """The hold, if its candidate comes from a later query, which an older one must not release."""
        held_of = moment_of(self.hold.query_started_at) if self.hold else None
        if held_of is None or ahead_of(now, held_of) is not None:
            return None
        return self.hold if held_of > query_started_at else None

    def has_rejected(self, sha256: str) -> bool:
        """Whether a person decided against these bytes. They stay unpublished, even if no guard holds them any more."""
        is_published = self.pointer is not None and self.pointer.sha256 == sha256
        return self.hold is not None and self.hold.has_rejected(sha256) and not is_published


def find_standing(context: RefreshContext, tenant: PartnerTenant, school_years: tuple[int, ...]) -> Standing:
    """Read the tenant's state, under its lock."""
    stored, hold = context.store.read(pointer_key(tenant)), read_hold(context.store, tenant)
    published = _without_pointer(context, tenant, school_years, hold) if stored is None else None
    published = published or _published(context, tenant, stored)
    return Standing(stored, published, hold, _wrong_clock(context, tenant, published))


def _without_pointer(
    context: RefreshContext, tenant: PartnerTenant, school_years: tuple[int, ...], hold: Hold | None
) -> Published | None:
    """What readers see without a pointer: a first run was killed before it wrote one, or somebody deleted it.

    A copy of a rejected candidate does not count. An approval that was killed left it, and then somebody rejected.
    """
    sizes = (context.store.stat(stable_key(tenant, year)) for year in school_years)
    digests = (found.sha256 for found in sizes if found is not None and found.sha256 is not None)
    decided = (digest for digest in digests if hold is None or not hold.has_rejected(digest))
    sha256 = next(decided, hold.published_sha256 if hold else None)
    if sha256 is None:
        return None
    manifest = read_manifest(context.store, tenant, sha256)
    started_at = manifest.query_started_at if manifest else datetime.min.replace(tzinfo=UTC).isoformat()
    secret_version = manifest.secret_version_id if manifest else ""
    return Published(Pointer(sha256, started_at, started_at, secret_version, context.run_id), manifest)


def _published(context: RefreshContext, tenant: PartnerTenant, stored: StoredDocument | None) -> Published | None:
    """What is published. With an unreadable pointer the candidate is held, and a decision writes the pointer anew."""
    try:
        return parse_published(context.store, tenant, stored)
    except StoredObjectDamaged as error:
        context.log.warning(f"{tenant}: nothing to compare with: {error}", extra={"tenant": str(tenant)})
        return None


def _wrong_clock(context: RefreshContext, tenant: PartnerTenant, published: Published | None) -> str | None:
    """What to say of a pointer from the future; None for one that is not."""
    if published is None:
        return None
    pointer, now = published.pointer, context.now()
    ahead = ahead_of(now, moment_of(pointer.query_started_at), moment_of(pointer.verified_at))
    if ahead is None:
        return None
    said = (
        f"the pointer of run {pointer.run_id} is from the future ({str(ahead).partition('.')[0]} ahead of now) and is "
        "replaced: the clock of that run was fast, or this one's is slow"
    )
    context.log.warning(f"{tenant}: {said}; runway-pipelines doctor compares clocks", extra={"tenant": str(tenant)})
    return said
