"""What `make dev` says once all is up: where to look, what is wrong on purpose, what to try. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runway_pipelines.local.mishaps import partners_with_rosters, tenants_with_students
from runway_pipelines.local.partners import Partner


@dataclass(frozen=True)
class Welcome:
    """The text that `make dev` ends with.

    ``url`` is Dagster's, ``board_url`` the board's page, and ``command`` is how one calls the command line on this
    stack from another terminal.
    """

    url: str
    board_url: str
    command: str
    partners: Sequence[Partner]

    def lines(self) -> list[str]:
        """Three sentences, a paragraph each, and the commands to copy."""
        partner, tenant = self._to_break()
        return [
            f"Look: {self.url}/assets/rosters/board has every partner at a glance, and {self.url}/runs the runs, which "
            f"the sensors request within a minute. The board is also a page, {self.board_url}, and a command:",
            f"  {self.command} rosters status",
            f"Wrong on purpose: {'; '.join(self._wrong())}.",
            f"Try, once the run of {partner} has ended: take most students of a district away, refresh its partner "
            f"({self.url}/assets/rosters/partner_roster_index, Materialize, {partner}), see it held, and undo it:",
            f"  {self.command} break mass-loss {partner}/{tenant}",
            f"  {self.command} rosters holds",
            f"  {self.command} mend",
        ]

    def _to_break(self) -> tuple[str, str]:
        partner = partners_with_rosters(self.partners)[0]
        return partner.partner_id, tenants_with_students(partner)[0].code

    def _wrong(self) -> Iterator[str]:
        """What the data set means to fail, or not to be published."""
        for partner in self.partners:
            if partner.deleted or not partner.cross_year_matching_enabled:
                continue
            if not partner.has_secret:
                yield f"{partner.partner_id} has no credentials, so it has no run"
                continue
            empty = [each.code for each in partner.tenants if not (each.students or each.is_global or each.deleted)]
            for code in empty:
                yield f"{partner.partner_id}/{code} has no students, so the run of {partner.partner_id} ends red"
            if all(send_to_ods for _, send_to_ods in partner.enabled_years):
                yield f"{partner.partner_id} has no school year to publish to, so its rosters are kept, not published"
