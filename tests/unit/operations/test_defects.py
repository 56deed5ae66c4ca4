"""A defect is told by its type and its place, and never by its text."""

import logging

import pytest

from runway_pipelines.operations.defects import logged_defect


def test_a_defect_is_logged_with_its_place_and_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("Ana Lopez")
    except ValueError as error:
        reason = logged_defect(logging.getLogger("test"), "acme/north", error, extra={"tenant": "acme/north"})
    assert reason == "an unexpected ValueError: report it, with the run's log"
    (record,) = caplog.records
    assert record.getMessage().startswith("acme/north: ValueError at\n")
    assert "test_defects.py" in record.getMessage()
    assert record.__dict__["tenant"] == "acme/north"
    assert "invalid literal" not in record.getMessage()
