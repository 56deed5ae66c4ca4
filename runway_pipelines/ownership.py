"""Whom to call, what to read, and which part of the house something belongs to: on everything that Dagster shows."""

from collections.abc import Sequence

OWNERS: Sequence[str] = ["team:runway-data"]
DOMAIN_TAG = "runway/domain"


# A path and no link: where this repository is looked at is not known here.
OPERATIONS = "docs/operations.md"


def runbook(section: str) -> dict[str, str]:
    """An asset's metadata: the section of the operations page that says what to do about it."""
    return {"runbook": f"{OPERATIONS}#{section}"}


def domain(name: str) -> dict[str, str]:
    """The tag of a domain."""
    return {DOMAIN_TAG: name}
