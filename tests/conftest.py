"""What all tests share: hypothesis' profiles. Without `-m "not slow"` properties are tried with all their examples."""

import pytest
from hypothesis import HealthCheck, settings

# A slow machine fails no property: there is no deadline, and generating may take its time.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("full", _patient)
settings.register_profile("fast", _patient, max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """Before the test modules are imported: `@settings` takes its defaults from the profile of that moment."""
    settings.load_profile("fast" if config.option.markexpr == "not slow" else "full")
