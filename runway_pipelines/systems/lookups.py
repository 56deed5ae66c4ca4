"""Reading and checking the secrets and parameters that locate a store.

An error says what is missing or wrong, and where; it never quotes a value.
"""

import re
from contextlib import suppress
from typing import Any, Protocol

import orjson

from runway_pipelines.errors import SecretMalformed, SecretMissing

_NOT_JSON = object()
HIGHEST_PORT = 65_535
_PORT = re.compile(r"[0-9]{1,5}")
# Labels of at most 63 characters: for a longer one the resolver raises an error that drivers do not expect.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,254}}$){_LABEL}(\.{_LABEL})*\.?")


class Lookups(Protocol):
    """Where secrets and parameters come from; None means that there is none."""

    def get_secret(self, name: str) -> str | None:
        """The text of the secret of this name or ARN."""

    def get_parameter(self, path: str) -> str | None:
        """The text of the parameter at this path."""


class Members:
    """The JSON object of one secret."""

    def __init__(self, place: str, members: dict[str, Any]) -> None:
        self.place = place
        self._members = members

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) not in (None, "")

    def text(self, name: str) -> str:
        """A required text."""
        value = self.optional_text(name)
        if value is None:
            raise malformed(f"the field {name}", self.place, "none, or an empty one")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None if it is missing or empty."""
        value = self._members.get(name)
        if value in (None, ""):
            return None
        if not isinstance(value, str):
            raise malformed(f"a text in the field {name}", self.place, f"a JSON {_kind(value)}")
        return value

    def host(self, name: str) -> str:
        """A required host name."""
        return as_host(self.text(name), f"the field {name}", self.place)

    def port(self, name: str) -> int:
        """A required port, as a number or as digits."""
        if name not in self:
            raise malformed(f"the field {name}", self.place, "none, or an empty one")
        return as_port(self._members[name], f"the field {name}", self.place)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean, or ``true`` or ``false`` as text."""
        value = self._members.get(name)
        if value in (None, ""):
            return default
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        raise malformed(f"true or false in the field {name}", self.place, "something else")


def read_members(lookups: Lookups, name: str) -> Members:
    """The members of a required secret; raises `SecretMissing`, `SecretMalformed`."""
    place = f"secret {name}"
    text = lookups.get_secret(name)
    if text is None:
        raise _missing(place)
    members = _decoded(text)
    if members is _NOT_JSON:
        raise malformed("JSON", place, "something else")
    if not isinstance(members, dict):
        raise malformed("a JSON object", place, f"a JSON {_kind(members)}")
    return Members(place, members)


def read_parameter(lookups: Lookups, path: str) -> str:
    """The text of a required parameter; raises `SecretMissing`, `SecretMalformed`."""
    text = lookups.get_parameter(path)
    if text is None:
        raise _missing(f"parameter {path}")
    if not text.strip():
        raise malformed("a text", f"parameter {path}", "none")
    return text.strip()


def read_host(lookups: Lookups, path: str) -> str:
    """The host that a parameter names."""
    return as_host(read_parameter(lookups, path), "a host", f"parameter {path}")


def read_port(lookups: Lookups, path: str) -> int:
    """The port that a parameter holds."""
    return as_port(read_parameter(lookups, path), "a port", f"parameter {path}")


def as_host(value: str, what: str, place: str) -> str:
    """A host name or address alone: a port or scheme in it would be looked up as part of the name."""
    if not _HOST.fullmatch(value):
        raise malformed(f"{what} to be the name of a host alone", place, "something else")
    return value


def as_port(value: Any, what: str, place: str) -> int:
    """A port from 1 to 65535, as an integer or as digits."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and _PORT.fullmatch(value)):
        port = int(value)
        if 1 <= port <= HIGHEST_PORT:
            return port
    raise malformed(f"{what} to be a number from 1 to {HIGHEST_PORT}", place, "something else")


def malformed(expected: str, place: str, came: str) -> SecretMalformed:
    """The error for a secret, parameter or file that exists but cannot be used."""
    return SecretMalformed(
        expected=f"{expected} in {place}", came=came, remedy=f"correct {place}, as docs/data-contracts.md lists it"
    )


def _decoded(text: str) -> Any:
    # Raising in an except block would keep the decoder's error as context, and that holds the whole text.
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    return _NOT_JSON


def _missing(place: str) -> SecretMissing:
    return SecretMissing(
        expected=f"the {place}",
        came="nothing by that name in this account and region",
        remedy="create it as docs/data-contracts.md lists it, or correct the environment, the service or AWS_REGION",
    )


def _kind(value: Any) -> str:
    return {dict: "object", list: "array", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")
