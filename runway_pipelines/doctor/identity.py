"""Checks LML and the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runway_pipelines.doctor.findings import ALL_CHECKS, CheckStatus, Finding, Seen, examined, skipped
from runway_pipelines.systems.lml.verdicts import Library

if TYPE_CHECKING:
    from runway_pipelines.identity.services import IdentityServices
    from runway_pipelines.systems.lml.client import LmlService


def examine_identity(identity: IdentityServices) -> Iterator[Finding]:
    """Ask LML about one library, and the catalogue for its tables, our rights and what is due."""
    if not identity.lml.base_url:
        yield from (skipped(subject, ALL_CHECKS, "LIBRARY_METADATA_URL is not set") for subject in ("LML", "catalogue"))
        return
    yield examined("LML", "answer", lambda: _see_lml(identity.lml))
    yield examined("catalogue", "tables", lambda: _see_catalogue(identity))


def _see_lml(lml: LmlService) -> Seen:
    from runway_pipelines.systems.lml.answers import parse_answer

    asked = [Library(1, None, "Stereolab", "Dots and Loops")]
    parse_answer(lml.resolve(asked, include_tracks=False).document, asked)
    return Seen(CheckStatus.OK, "one library looked up")


def _see_catalogue(identity: IdentityServices) -> Seen:
    from runway_pipelines.identity.options import IdentityOptions
    from runway_pipelines.identity.rights import require_rights

    with identity.catalogue.connection() as connection:
        require_rights(connection, identity.catalogue_schema)
    due = identity.due(IdentityOptions.model_validate({}), datetime.now(UTC))
    return Seen(CheckStatus.OK, f"{sum(due.values())} libraries due in {identity.catalogue_schema}")
