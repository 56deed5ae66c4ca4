"""Validators made from the OpenAPI file of LML's bulk lookup, of which a copy is beside this module."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

RESOLVE_PATH = "/api/v1/identity/bulk-resolve-libraries"
OPENAPI_FILE = Path(__file__).with_name("lml_bulk_resolve.openapi.json")


@cache
def validator(name: str) -> Any:
    """For one of the file's schemas (``Request``, ``Response``, ``Result``); its `is_valid` and `iter_errors` take a
    decoded document.

    jsonschema-rs, because 500 results cost it 1 ms; jsonschema takes 300.
    """
    components = json.loads(OPENAPI_FILE.read_text())["components"]
    return jsonschema_rs.Draft202012Validator(
        _without_nullable({"$ref": f"#/components/schemas/{name}", "components": components})
    )


def first_error(name: str, document: Any) -> Any:
    """The first violation of a schema (``message``, ``instance_path``), or None."""
    return next(validator(name).iter_errors(document), None)


def _without_nullable(schema: Any) -> Any:
    """OpenAPI 3.0 made JSON Schema: ``nullable`` is an alternative.

    Also where it stands beside ``allOf`` instead of ``type``, which 3.0.3 leaves without effect: the contract's text
    says that such a method may be null.
    """
    if isinstance(schema, list):
        return [_without_nullable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {key: _without_nullable(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [rest, {"type": "null"}]} if schema.get("nullable") is True else rest
