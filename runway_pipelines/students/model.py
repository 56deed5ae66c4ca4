"""The model as data: which pairs are looked at, what is compared, and how much each level of agreement says: pure.

`model.json` ships with the package. Its conditions are SQL about a candidate ``l`` and a student ``r``.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import msgspec


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of agreement: ``m`` and ``u`` are its probabilities between the same and between two students."""

    name: str
    when: str | None = None  # the last level needs none
    missing: bool = False  # no evidence
    m: float = 1.0
    u: float = 1.0
    frequency: str | None = None  # the column whose frequency among the students replaces u

    @property
    def bits(self) -> float:
        """What the level weighs, where no frequency replaces u."""
        return 0.0 if self.missing else math.log2(self.m / self.u)


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is compared; the first level that holds counts."""

    name: str
    levels: tuple[Level, ...]


class Blocking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pairs with these columns equal are looked at."""

    name: str
    equal: tuple[tuple[str, str], ...]


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Fellegi-Sunter model. ``prior`` is the probability that a random pair is one student."""

    version: str
    provenance: str
    prior: float
    blocking: tuple[Blocking, ...]
    comparisons: tuple[Comparison, ...]


@cache
def shipped_model() -> Model:
    """The model that ships with the package."""
    return msgspec.json.decode(files(__package__).joinpath("model.json").read_bytes(), type=Model)
