"""Random numbers that are a function of names and an index, and of nothing else.

Belongs here: drawing, choosing and shuffling for the synthetic data set. Numpy's generators promise no stable stream
between versions, so this is a counter hash of our own (splitmix64's finalizer): the same arguments give the same
numbers on every machine, in whatever order and batches they are asked for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


@dataclass(frozen=True)
class Draws:
    """Draws that belong to `name` (as `seed/partner_id/tenant_code`); every `field` is independent of the others."""

    name: str

    def bits(self, field: str, index: Ints) -> Bits:
        """64 random bits for each index."""
        seed = int.from_bytes(hashlib.sha256(f"{self.name}/{field}".encode()).digest()[:8], "little")
        z = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Bits = z ^ (z >> np.uint64(31))
        return mixed

    def below(self, field: str, index: Ints, limit: int) -> Ints:
        """An integer in [0, limit) for each index."""
        drawn: Ints = (self.bits(field, index) % np.uint64(limit)).astype(np.int64)
        return drawn

    def chance(self, field: str, index: Ints, rate: float) -> Flags:
        """True for about `rate` of the indices."""
        return self.below(field, index, 1_000_000) < round(rate * 1_000_000)

    def order(self, field: str, count: int) -> Ints:
        """A permutation of 0..count-1."""
        permutation: Ints = np.argsort(self.bits(field, np.arange(count)), kind="stable").astype(np.int64)
        return permutation

    def keys(self, field: str, index: Ints) -> pa.StringArray:
        """32 hexadecimal digits for each index, as the warehouse's surrogate keys (MD5) look."""
        halves = np.stack([self.bits(f"{field}.high", index), self.bits(f"{field}.low", index)], axis=1)
        octets = halves.astype(">u8").view(np.uint8).reshape(len(index), 16)
        digits = np.empty((len(index), 32), dtype=np.uint8)
        digits[:, 0::2], digits[:, 1::2] = _HEX[octets >> 4], _HEX[octets & 15]
        offsets = np.arange(0, 32 * (len(index) + 1), 32, dtype=np.int32)
        return pa.Array.from_buffers(pa.string(), len(index), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])


def deal(order: Ints, shares: Mapping[str, tuple[float, int]]) -> dict[str, Ints]:
    """Cut a permutation into disjoint hands: `shares` gives (rate, at least) for each.

    The minimum is what makes every kind of trouble occur in a small tenant too. What is left over has no name.
    """
    hands: dict[str, Ints] = {}
    at = 0
    for name, (rate, least) in shares.items():
        size = max(least, round(rate * len(order)))
        hands[name] = order[at : at + size]
        at += size
    return hands
