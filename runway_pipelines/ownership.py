"""Whom to call, and which part of the house something belongs to: on everything that Dagster shows."""

from collections.abc import Sequence

OWNERS: Sequence[str] = ["team:runway-data"]
DOMAIN_TAG = "runway/domain"


def domain(name: str) -> dict[str, str]:
    """The tag of a domain."""
    return {DOMAIN_TAG: name}
