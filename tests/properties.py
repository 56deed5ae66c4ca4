"""How many examples a property with a number of its own is tried with."""

from hypothesis import settings


def examples(count: int) -> int:
    """So many in full, a tenth of them in `make test`."""
    return count if settings.get_current_profile_name() == "full" else max(count // 10, 10)
