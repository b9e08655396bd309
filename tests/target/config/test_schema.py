"""Tests of target.config.schema: what is published is true of what the target takes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from target.config import Config
from target.config.schema import DIALECT, schema, schema_text

SCHEMA = schema()
ROOT = Path(__file__).parents[3]
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip
KEYWORDS = {
    "$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "default", "description", "enum", "items",
    "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum", "pattern",
    "patternProperties", "properties", "required", "title", "type", "uniqueItems",
}  # fmt: skip


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """Whether ``value`` is valid by the keywords that our schema uses, and by no others."""
    assert rule.keys() <= KEYWORDS, rule.keys() - KEYWORDS
    if "$ref" in rule:
        rule = SCHEMA["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in rule and not any(fits(value, one) for one in rule["anyOf"]):
        return False
    kind = rule.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if "enum" in rule and not any(type(value) is type(one) and value == one for one in rule["enum"]):
        return False
    if isinstance(value, str):
        return (
            re.search(rule.get("pattern", ""), value) is not None
            and rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value))
        )  # fmt: skip
    if isinstance(value, int | float) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        return False
    if isinstance(value, list):
        return rule.get("minItems", 0) <= len(value) and all(fits(entry, rule.get("items", {})) for entry in value)
    return not isinstance(value, dict) or _table_fits(value, rule)


def _table_fits(value: dict[str, Any], rule: dict[str, Any]) -> bool:
    known, others = rule.get("properties", {}), rule.get("additionalProperties", {})
    patterns = rule.get("patternProperties", {})
    for key, entry in value.items():
        matching = [one for pattern, one in patterns.items() if re.search(pattern, key)]
        found = known.get(key, matching[0] if matching else others)
        if found is False or not fits(entry, found):
            return False
    return value.keys() >= set(rule.get("required", ())) and len(value) >= rule.get("minProperties", 0)


def test_the_published_schema_is_that_of_this_version() -> None:
    published = (ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "write it anew: iser-target schema > docs/config.schema.json"
    assert json.loads(published)["$schema"] == DIALECT


def test_every_table_and_key_is_described() -> None:
    assert schema()["properties"].keys() == Config.model_fields.keys()
    for name, table in schema()["$defs"].items():
        assert table["description"], name
        assert ":class:" not in table["description"]
    assert '"null"' not in schema_text()


@pytest.mark.parametrize("file", sorted(p.name for p in (ROOT / "configs").glob("*.toml") if "bench" not in p.name))
def test_shipped_configurations_fit(file: str) -> None:
    assert fits(tomllib.loads((ROOT / "configs" / file).read_text()), schema())


GOOD = """
portal.p.listen = "iser://127.0.0.1:3260"
limits.max_transfer = "1 MiB"
rnic = { crc = "auto", segment = 1024 }
[[target]]
name = "iqn.2026-11.demo:disk"
lun = [{ id = 0, backend = "memory", size = 4096 }]
acl = [{ initiator = "*", luns = { 0 = 0 } }]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("iser://", "http://"),
        ("portal.p.listen", "portal.p.lisen"),
        ('"1 MiB"', '"1 Mile"'),
        ('"1 MiB"', "-1"),
        ('"auto"', '"yes"'),
        ("1024", "1"),
        ("iqn.", "iq."),
        ("id = 0", "id = 99999"),
        ("id = 0", "id = true"),
        ('"memory"', '"ram"'),
        ("{ 0 = 0 }", "{ a = 0 }"),
        ("{ 0 = 0 }", "[]"),
        ('initiator = "*", ', ""),
        ("rnic", "nic"),
    ],
)
def test_what_is_wrong_does_not_fit(old: str, new: str) -> None:
    assert fits(tomllib.loads(GOOD), schema())
    assert old in GOOD
    assert not fits(tomllib.loads(GOOD.replace(old, new)), schema())
