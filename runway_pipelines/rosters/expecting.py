"""Changes that a person expects: each is an approval in advance, recorded when it is given, ended and used.

See the publication guards contract, section 3. A refresh reads them when a guard fails (`judgement`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import complete_begun, on_record
from runway_pipelines.rosters.decisions import DecisionContext, refusal
from runway_pipelines.rosters.guards import GUARD_NAMES
from runway_pipelines.rosters.holds import Expectation, Expectations, read_expectations, signed, write_expectations
from runway_pipelines.rosters.record import Entry

MOST_EXPECTED = timedelta(days=60)


def expect(
    context: DecisionContext,
    partner_id: str,
    tenant_code: str | None,
    guards: Sequence[str],
    until: datetime,
    decided_by: str,
    reason: str,
) -> Expectation:
    """Approve in advance a change that is known to come; raises `DecisionRefused`, `PublicationRaced`."""
    now = context.now()
    signature = signed(decided_by, reason, now)
    unknown = sorted(set(guards) - set(GUARD_NAMES))
    if unknown or not guards:
        raise refusal(
            f"guards of {', '.join(GUARD_NAMES)}", ", ".join(unknown) or "none", "name those that the change will fail"
        )
    if not now < until <= now + MOST_EXPECTED:
        raise refusal(
            f"an end between now and {MOST_EXPECTED.days} days from now",
            until.isoformat(),
            "say until when it is expected",
        )
    expectation = Expectation(
        uuid.uuid4().hex[:8], tuple(guards), until.astimezone(UTC).isoformat(timespec="seconds"), signature, tenant_code
    )
    known, stored = read_expectations(context.store, partner_id)
    kept = tuple(each for each in known.expectations if datetime.fromisoformat(each.until) > now)
    of = partner_id if tenant_code is None else PartnerTenant(partner_id, tenant_code)
    for each in filter(expectation.is_like, kept):
        if complete_begun(context.store, of, now, "expect", expectation=each.id):
            return each  # given before, by a process that died before it recorded that it was done
    with on_record(context.store, _of_expectation("expect", partner_id, context.run_id, expectation), context.now):
        write_expectations(context.store, partner_id, Expectations((*kept, expectation)), replacing=stored)
    return expectation


def end_expectation(
    context: DecisionContext, partner_id: str, expectation_id: str, decided_by: str, reason: str
) -> None:
    """End an expectation before its time; raises `DecisionRefused`, `PublicationRaced`."""
    signature = signed(decided_by, reason, context.now())
    known, stored = read_expectations(context.store, partner_id)
    found = [each for each in known.expectations if each.id == expectation_id]
    if not found and complete_begun(context.store, partner_id, context.now(), "expect-end", expectation=expectation_id):
        return  # ended before, by a process that died in the same way
    if not found:
        raise refusal(
            f"the id of one of {partner_id}'s {len(known.expectations)} expectations", expectation_id, "list them"
        )
    (expectation,) = found
    entry = _of_expectation("expect-end", partner_id, context.run_id, replace(expectation, signature=signature))
    with on_record(context.store, entry, context.now):
        rest = tuple(each for each in known.expectations if each.id != expectation_id)
        write_expectations(context.store, partner_id, Expectations(rest), replacing=stored)


def _of_expectation(what: str, partner_id: str, run_id: str, expectation: Expectation) -> Entry:
    return Entry(
        what,
        partner_id,
        expectation.tenant_code,
        run_id,
        signature=expectation.signature,
        details={
            "expectation": expectation.id,
            "guards": ", ".join(expectation.guards),
            "until": expectation.until,
        },
    )
