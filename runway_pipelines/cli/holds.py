"""``rosters holds|diff``: what waits for a person, and what it would change."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from runway_pipelines.cli.arguments import PartnerArgument, TenantArgument
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.files import OutputFile
from runway_pipelines.cli.registry import known_partner, nothing_published
from runway_pipelines.cli.results import json_option, name_of, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console, say
from runway_pipelines.errors import Permanent
from runway_pipelines.operations.wording import SHA256_SHOWN, minute
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.systems.disk import private_file

if TYPE_CHECKING:
    from runway_pipelines.rosters.comparison import Kind
    from runway_pipelines.rosters.holds import Hold
    from runway_pipelines.rosters.manifest import Manifest
    from runway_pipelines.rosters.services import RosterServices


@click.command(
    short_help="What waits for a person.",
    epilog=examples(
        "runway-pipelines rosters holds",
        "runway-pipelines rosters holds acme",
        "runway-pipelines rosters holds --json | jq -r '.[].next_step'",
    ),
)
@click.argument("partner", metavar="[PARTNER]", type=PartnerArgument(), required=False)
@json_option
@click.pass_obj
def holds(target: Target, partner: str | None, is_json: bool) -> None:
    """The rosters that wait for a person, of all partners or of one."""
    with target.services() as services:
        found = held_rosters(services, partner)

    def for_people() -> None:
        if not found:
            console.print("No roster is held.")
            return
        console.print(holds_table(found))
        for tenant, hold in found:
            say(target.adapted(f"\n{tenant}: {hold.said_of(tenant)}"))

    document = [
        {**name_of(tenant), "hold": hold, "next_step": target.adapted(hold.said_of(tenant))} for tenant, hold in found
    ]
    print_result(document, for_people, is_json=is_json)


def held_rosters(services: RosterServices, partner_id: str | None) -> list[tuple[PartnerTenant, Hold]]:
    """Each held tenant of all partners or of one, with its hold; raises `Permanent` for a partner without rosters."""
    from runway_pipelines.rosters.holds import read_holds

    registry = services.registry()
    partners = [known_partner(registry, partner_id)] if partner_id else registry.partners.values()
    return list(read_holds(services.store, [tenant for each in partners for tenant in each.tenants]))


def holds_table(found: list[tuple[PartnerTenant, Hold]]) -> Table:
    """The candidates that wait, a row each."""
    table = Table(title="Held rosters", title_justify="left")
    for name in ("tenant", "since (UTC)", "guards", "students", "candidate"):
        table.add_column(name, overflow="fold", justify="right" if name == "students" else "left")
    for tenant, hold in found:
        rejected = " (rejected)" if hold.rejected else ""
        table.add_row(
            str(tenant),
            minute(hold.since),
            ", ".join(hold.guards),
            f"{hold.students:,}",
            hold.digits + rejected,
        )
    return table


@click.command(
    short_help="What changes between two snapshots.",
    epilog=examples(
        "runway-pipelines rosters diff acme/ashford   # published and held",
        "runway-pipelines rosters diff acme/ashford 1a2b3c4d 5e6f7a8b",
        "runway-pipelines rosters diff acme/ashford --ids students.csv",
    ),
)
@click.argument("tenant", type=TenantArgument())
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option("--ids", type=OutputFile(), help="Write the student ids of each kind to this file, for you alone.")
@json_option
@click.pass_obj
def diff(target: Target, tenant: PartnerTenant, a: str | None, b: str | None, ids: Path | None, is_json: bool) -> None:
    """Compare snapshots A and B of PARTNER/TENANT: the students added, removed and changed.

    By default A is what is published, and B the candidate that is held; without one, A is what was published before.
    """
    from runway_pipelines.rosters.comparison import differences
    from runway_pipelines.rosters.manifest import snapshot_key
    from runway_pipelines.rosters.publication import read_manifest

    with target.services() as services:
        store = services.store
        old, new = _two_snapshots(services, tenant, a, b)
        counted: Counter[Kind] = Counter()
        by_kind: list[tuple[Kind, str]] = []
        for kind, student in differences(
            store.lines(snapshot_key(tenant, old)), store.lines(snapshot_key(tenant, new))
        ):
            counted[kind] += 1
            if ids is not None:
                by_kind.append((kind, student))
        found = Comparison(
            tenant, old, new, counted, read_manifest(store, tenant, old), read_manifest(store, tenant, new), ids
        )
    if ids is not None:
        _write_ids(ids, by_kind)
    print_result(found.document(), lambda: _print_comparison(found), is_json=is_json)


@dataclass(frozen=True)
class Comparison:
    """Two snapshots of a tenant, in numbers; ``ids`` is the file that names the students."""

    tenant: PartnerTenant
    old_sha256: str
    new_sha256: str
    students: Counter[Kind]
    before: Manifest | None
    after: Manifest | None
    ids: Path | None

    def document(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        from runway_pipelines.rosters.comparison import Kind

        return {
            **name_of(self.tenant),
            "from_sha256": self.old_sha256,
            "to_sha256": self.new_sha256,
            "students": {kind.value: self.students[kind] for kind in Kind},
            "before": self.before,
            "after": self.after,
            "ids_file": self.ids and str(self.ids),
        }


def _print_comparison(found: Comparison) -> None:
    from runway_pipelines.rosters.comparison import Kind

    old, new = found.old_sha256[:SHA256_SHOWN], found.new_sha256[:SHA256_SHOWN]
    console.print(f"{found.tenant}: from {old} to {new}", highlight=False)
    table = Table("", "students", show_header=True)
    table.columns[1].justify = "right"
    for each in Kind:
        table.add_row(each.value, f"{found.students[each]:,}")
    console.print(table)
    if found.before and found.after:
        console.print(_before_and_after(found.before, found.after))
    if found.ids is not None:
        console.print(f"The student ids of each kind are in {found.ids}, readable for you alone.", soft_wrap=True)


def _before_and_after(before: Manifest, after: Manifest) -> Table:
    table = Table("", "before", "after", title="students", title_justify="left")
    for name, was, now in (
        ("all", before.students, after.students),
        *(
            (system, before.students_by_id_system.get(system, 0), after.students_by_id_system.get(system, 0))
            for system in sorted({*before.students_by_id_system, *after.students_by_id_system})
        ),
        ("codes left out as shared", before.colliding_codes, after.colliding_codes),
    ):
        table.add_row(name, f"{was:,}", f"{now:,}")
    return table


def _two_snapshots(services: RosterServices, tenant: PartnerTenant, a: str | None, b: str | None) -> tuple[str, str]:
    from runway_pipelines.rosters.holds import read_hold
    from runway_pipelines.rosters.publication import read_published, whole_sha256

    published, hold = read_published(services.store, tenant), read_hold(services.store, tenant)
    if published is None:
        raise (
            _nothing_to_compare(tenant, "a candidate that waits, and nothing published")
            if hold
            else nothing_published(services, tenant)
        )
    pointer = published.pointer
    if a is None and hold and hold.sha256 == pointer.sha256:
        raise _nothing_to_compare(tenant, "a candidate with the bytes that are published, held for its warehouse alone")
    if b is None:
        b = hold.sha256 if hold and hold.sha256 else pointer.sha256
    if a is None:
        a = pointer.sha256 if b != pointer.sha256 else pointer.previous_sha256
    if a is None:
        raise _nothing_to_compare(tenant, "the published one alone: none is held, and none was published before")
    return whole_sha256(services.store, tenant, a), whole_sha256(services.store, tenant, b)


def _nothing_to_compare(tenant: PartnerTenant, came: str) -> Permanent:
    return Permanent(
        expected=f"two snapshots of {tenant} that differ",
        came=came,
        remedy=f"name two that runway-pipelines rosters show {tenant.quoted} lists",
    )


def _write_ids(file: Path, by_kind: list[tuple[Kind, str]]) -> None:
    with private_file(file) as binary:
        text = TextIOWrapper(binary, encoding="utf-8", newline="")
        csv.writer(text).writerows([("kind", "student_unique_id"), *((kind.value, one) for kind, one in by_kind)])
        text.detach()
