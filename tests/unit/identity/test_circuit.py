"""The circuit opens after enough failed batches in a row, or at once, and stays open."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import LmlRefused, LmlUnavailable, Permanent, RunwayError, Transient, Unavailable
from runway_pipelines.identity.resolution import Circuit

MOST = 3


def unavailable(number: int = 1) -> LmlUnavailable:
    return LmlUnavailable(status=503, expected="LML to answer", came=f"trouble {number}", remedy="try again")


def refused() -> LmlRefused:
    return LmlRefused(status=401, expected="LML to let us in", came="HTTP 401", remedy="set LML_API_KEY")


def test_a_new_circuit_is_closed() -> None:
    circuit = Circuit(MOST)
    assert not circuit.is_open and not circuit.opened.is_set() and circuit.failure is None


def test_it_opens_after_the_allowed_failures_in_a_row_and_says_why() -> None:
    circuit = Circuit(MOST)
    for number in range(1, MOST):
        circuit.failed(unavailable(number))
        assert not circuit.is_open and circuit.failure is None
    circuit.failed(unavailable(MOST))
    assert circuit.is_open and circuit.opened.is_set()
    assert isinstance(circuit.failure, Unavailable) and circuit.failure.code == "503"
    assert circuit.failure.came == "3 failed batches in a row, the last with trouble 3"
    assert "try again" in circuit.failure.remedy and "run again" in circuit.failure.remedy


def test_one_failure_is_enough_if_the_limit_is_one() -> None:
    circuit = Circuit(1)
    circuit.failed(unavailable())
    assert circuit.is_open


def test_an_answer_resets_the_count() -> None:
    circuit = Circuit(MOST)
    for _ in range(5):
        for _ in range(MOST - 1):
            circuit.failed(unavailable())
        circuit.answered()
    assert not circuit.is_open
    circuit.failed(unavailable())
    assert not circuit.is_open


@pytest.mark.parametrize("failure", [refused(), Permanent(expected="a", came="b", remedy="c")])
def test_an_immediate_stop_keeps_its_error(failure: RunwayError) -> None:
    circuit = Circuit(MOST)
    circuit.stop(failure)
    assert circuit.is_open and circuit.failure is failure


def test_the_first_failure_is_kept_and_the_circuit_stays_open() -> None:
    circuit = Circuit(1)
    first = refused()
    circuit.stop(first)
    circuit.answered()
    circuit.failed(unavailable())
    circuit.stop(Transient(expected="a", came="b", remedy="c"))
    assert circuit.is_open and circuit.failure is first


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_it_is_open_once_enough_failures_came_in_a_row(outcomes: list[bool], most: int) -> None:
    circuit = Circuit(most)
    for is_answered in outcomes:
        if is_answered:
            circuit.answered()
        else:
            circuit.failed(unavailable())
    told = "".join("+" if is_answered else "-" for is_answered in outcomes)
    assert circuit.is_open is ("-" * most in told)


def test_failures_of_concurrent_threads_all_count_and_give_one_reason() -> None:
    threads = 8
    for _ in range(50):
        circuit, barrier = Circuit(threads), Barrier(threads)

        def fail(number: int, circuit: Circuit = circuit, barrier: Barrier = barrier) -> None:
            barrier.wait()
            circuit.failed(unavailable(number))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fail, range(threads)))
        assert circuit.failure is not None
        assert circuit.failure.came.startswith("8 failed batches in a row")
