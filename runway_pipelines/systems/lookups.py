"""Reading a secret or a parameter by which a store is found, over two callables, and what may be wrong with it.

A message names what is missing and where it was looked for, never a value.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from runway_pipelines.errors import SecretMalformed, SecretMissing

# The text of the secret of this name (or ARN), or None when there is none; the same for a parameter of this path.
GetSecret = Callable[[str], str | None]
GetParameter = Callable[[str], str | None]

_NOT_JSON = object()
HIGHEST_PORT = 65_535
_PORT = re.compile(r"[0-9]{1,5}")
# Labels of at most 63 characters: for others the resolver raises what no driver takes for a failure to connect.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,254}}$){_LABEL}(\.{_LABEL})*\.?")


class Members:
    """The JSON object of one secret."""

    def __init__(self, place: str, members: dict[str, Any]) -> None:
        self.place = place
        self._members = members

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) not in (None, "")

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.optional_text(name)
        if value is None:
            raise malformed(f"the field {name}", self.place, "none, or an empty one")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None where it is missing or empty."""
        value = self._members.get(name)
        if value in (None, ""):
            return None
        if not isinstance(value, str):
            raise malformed(f"a text in the field {name}", self.place, f"a JSON {_kind(value)}")
        return value

    def host(self, name: str) -> str:
        """The name of a host."""
        return as_host(self.text(name), f"the field {name}", self.place)

    def port(self, name: str) -> int:
        """A port, as a number or as digits."""
        if name not in self:
            raise malformed(f"the field {name}", self.place, "none, or an empty one")
        return as_port(self._members[name], f"the field {name}", self.place)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean, or the word for one."""
        value = self._members.get(name)
        if value in (None, ""):
            return default
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        raise malformed(f"true or false in the field {name}", self.place, "something else")


def read_members(get_secret: GetSecret, name: str) -> Members:
    """The members of a secret that must be there; raises `SecretMissing`, `SecretMalformed`."""
    place = f"secret {name}"
    text = get_secret(name)
    if text is None:
        raise _missing(place)
    members = _decoded(text)
    if members is _NOT_JSON:
        raise malformed("JSON", place, "something else")
    if not isinstance(members, dict):
        raise malformed("a JSON object", place, f"a JSON {_kind(members)}")
    return Members(place, members)


def read_parameter(get_parameter: GetParameter, path: str) -> str:
    """The text of a parameter that must be there; raises `SecretMissing`, `SecretMalformed`."""
    text = get_parameter(path)
    if text is None:
        raise _missing(f"parameter {path}")
    if not text.strip():
        raise malformed("a text", f"parameter {path}", "none")
    return text.strip()


def read_host(get_parameter: GetParameter, path: str) -> str:
    """The host that a parameter names."""
    return as_host(read_parameter(get_parameter, path), "a host", f"parameter {path}")


def read_port(get_parameter: GetParameter, path: str) -> int:
    """The port that a parameter holds."""
    return as_port(read_parameter(get_parameter, path), "a port", f"parameter {path}")


def as_host(value: str, what: str, place: str) -> str:
    """A host's name or address alone: with a port or a scheme in it the driver would look up a name that is none."""
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
    """The error for what is there and cannot be used."""
    return SecretMalformed(
        expected=f"{expected} in {place}", came=came, remedy=f"correct {place}, as docs/data-contracts.md lists it"
    )


def _decoded(text: str) -> Any:
    # Nothing is raised within the except block: the decoder's error keeps the whole text, and a context can be walked.
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    return _NOT_JSON


def _missing(place: str) -> SecretMissing:
    return SecretMissing(
        expected=f"the {place}",
        came="nothing of that name in this account and region",
        remedy="create it as docs/data-contracts.md lists it, or correct the environment, the service and AWS_REGION",
    )


def _kind(value: Any) -> str:
    return {dict: "object", list: "array", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")
