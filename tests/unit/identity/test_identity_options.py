"""An identity run's options: their ranges, what is said about a wrong one, and how a limit is divided."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.identity.options import IdentityOptions, require_in_range

CONTRACT = Path(__file__).parents[3] / "docs" / "contracts" / "library_identity.md"
RANGES: dict[str, tuple[float, float | None]] = {
    "batch_size": (1, 1000),
    "compilation_batch_size": (1, 1000),
    "shards": (1, 64),
    "calls_in_flight": (1, 64),
    "writers": (1, 8),
    "stale_days": (0, 36_500),
    "unresolved_retry_days": (0, 36_500),
    "not_ready_retry_days": (0, 36_500),
    "limit": (1, None),
    "most_failed_batches": (1, None),
    "most_unresolved": (0, 1),
    "least_fresh": (0, 1),
}
OUTSIDE = [(name, least - 1) for name, (least, _) in RANGES.items()] + [
    (name, most + 1) for name, (_, most) in RANGES.items() if most is not None
]


def options(**values: Any) -> IdentityOptions:
    return IdentityOptions(**values)


def test_the_defaults_and_the_ends_of_every_range_are_within_it() -> None:
    require_in_range(options())
    require_in_range(options(**{name: least for name, (least, _) in RANGES.items()}))
    require_in_range(options(**{name: 10**9 if most is None else most for name, (_, most) in RANGES.items()}))


@pytest.mark.parametrize(("name", "value"), [*OUTSIDE, ("most_unresolved", float("nan")), ("least_fresh", 1.01)])
def test_an_option_outside_its_range_is_named_with_its_value_and_its_range(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_in_range(options(**{name: value}))
    assert refused.value.expected == f"{name} to be {_range(name)}"
    assert refused.value.came in (f"{name} {value}", f"{name} {float(value)}")


def test_every_wrong_option_is_named() -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_in_range(options(batch_size=1001, limit=0, stale_days=-1, shards=2))
    assert str(refused.value) == (
        "Expected batch_size to be 1 to 1000, stale_days to be 0 to 36500, limit to be 1 or more;"
        " got batch_size 1001, stale_days -1, limit 0. To do: correct the run's config."
    )


def test_every_number_has_a_range_that_its_description_ends_with() -> None:
    numbers = {name for name, field in IdentityOptions.model_fields.items() if field.annotation is not bool}
    assert numbers == set(RANGES)
    for name in RANGES:
        assert str(IdentityOptions.model_fields[name].description).endswith(f": {_range(name)}."), name


def test_the_contract_lists_every_option_with_its_default_and_its_range() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| .+ \|$", CONTRACT.read_text(), re.MULTILINE)
    expected = {name: (_default(name), _range(name)) for name in IdentityOptions.model_fields}
    assert {name: (default, bounds) for name, default, bounds in rows if name in expected} == expected


def _default(name: str) -> str:
    default = IdentityOptions.model_fields[name].default
    return {"None": "none", "False": "off"}.get(str(default), str(default))


def _range(name: str) -> str:
    if name not in RANGES:
        return ""
    least, most = RANGES[name]
    return f"{least} or more" if most is None else f"{least} to {most}"


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"shards": 3}, [None, None, None]),
        ({"shards": 3, "limit": 8}, [3, 3, 2]),
        ({"shards": 3, "limit": 2}, [1, 1]),
        ({"shards": 3, "recheck": True}, [None, None, None]),
        ({"shards": 3, "limit": 8, "recheck": True}, [8]),
    ],
    ids=str,
)
def test_each_shard_has_its_part_of_the_limit(given: dict[str, Any], parts: list[int | None]) -> None:
    made = options(**given)
    assert [made.limit_of(shard) for shard in range(made.shard_count)] == parts
