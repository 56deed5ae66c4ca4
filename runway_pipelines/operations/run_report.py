"""What a run says about itself, as data: pure.

The metadata of a run's events is written for people. Beside it, under the label `RUN_REPORT`, one JSON value holds the
same facts for machines: the asset shells write it with `RunReport.document`, and `run_log` alone reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

RUN_REPORT = "run report"


@dataclass(frozen=True)
class Problem:
    """Why a tenant was not published or an asset not written. Only a tenant has a ``status``.

    ``hold`` names the candidate and the guards that hold it: operators are told of each pair once.
    """

    reason: str
    status: str | None = None
    hold: str | None = None

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.status else self.reason


@dataclass(frozen=True)
class CredentialsFailure:
    """Why a partner's credentials do not work. ``code`` is the server's; the id of a secret's version is not secret."""

    code: str | None
    secret_version: str | None
    reason: str

    def is_same(self, other: CredentialsFailure | None) -> bool:
        """Whether both name one secret version and one code; the wording may differ."""
        return other is not None and (self.code, self.secret_version) == (other.code, other.secret_version)


@dataclass(frozen=True)
class Straggler:
    """A tenant whose roster is too old, is dated in the future (``age`` is negative), or is missing (``age`` is None).

    A tenant with an unusable code can have no roster. ``since`` is when a person's decision was needed, or made.
    """

    tenant_code: str
    age: timedelta | None
    status: str
    reason: str
    has_unusable_code: bool = False
    since: str | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether it is dated in the future."""
        return self.age is not None and self.age < timedelta()

    def __str__(self) -> str:
        if self.age is None:
            age = "never refreshed"
        elif self.is_ahead:
            age = f"dated {-hours(self.age):.1f} hours in the future"
        else:
            age = f"{hours(self.age):.0f} hours old"
        return f"{age}; last try: {self.status}, {self.reason}".removesuffix(", ")


def hours(age: timedelta) -> float:
    """The age in hours, to one decimal."""
    return round(age.total_seconds() / 3600, 1)


@dataclass(frozen=True)
class RunReport:
    """The part of a run that one event reports.

    ``counts`` says how many tenants or libraries ended in which way. ``problems`` are keyed by the tenant's partition
    key, or by the asset where a run has no partner. ``stragglers`` belong to the partner whose freshness was judged.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    credentials_failure: CredentialsFailure | None = None
    stragglers: tuple[Straggler, ...] = ()

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def parse(cls, document: object) -> RunReport | None:
        """Read a `document`; None for anything else, such as the metadata of an earlier version."""
        try:
            return _ADAPTER.validate_python(document)
        except ValidationError:
            return None


_ADAPTER = TypeAdapter(RunReport)
