"""How long a client is waited for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.stream.streaming import Patience


@given(st.lists(st.tuples(st.integers(1, 5_000_000), st.floats(1, 1000)), max_size=50))
def test_a_client_that_takes_the_least_rate_is_never_cut_however_lumpy_it_looks(
    lumps: list[tuple[int, float]],
) -> None:
    """What it takes becomes visible only lump by lump, after all of the time that the lump has taken."""
    patience = Patience(0, 10_000)
    sent, waited = 0, 0.0
    for size, times_as_fast in lumps:
        sent += size
        seconds = size / (10_000 * times_as_fast)
        assert patience.left(sent, waited) >= seconds * 0.999
        waited += seconds


@pytest.mark.parametrize(("sent", "waited", "left"), [(0, 0, 300), (0, 299, 1), (1_000_000, 300, 100), (0, 400, -100)])
def test_what_is_left(sent: int, waited: float, left: float) -> None:
    assert Patience(300, 10_000).left(sent, waited) == left
