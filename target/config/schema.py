"""The JSON Schema of the configuration, for editors and for whoever writes configurations by program.

It describes each key by itself.  What only two keys together show, such as a LUN without the path that its backend
needs, is found by ``iser-target check``.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from target.config.model import Config

__all__ = ["DIALECT", "schema", "schema_text"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Without titles that only repeat the key, and without null, which TOML does not have."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        made = super().model_schema(schema)
        made.pop("title", None)
        if "description" in made:
            made["description"] = _plain(made["description"])
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        made = super().default_schema(schema)
        if "default" in made and made["default"] is None:
            del made["default"]
        return made

    def enum_schema(self, schema: core_schema.EnumSchema) -> dict[str, Any]:
        made = super().enum_schema(schema)
        made.pop("title", None)
        return made


def _plain(doc: str) -> str:
    """A docstring as text: its marks for code are for another reader."""
    return " ".join(doc.replace("``", "").replace(":class:", "").replace("`", "").split())


def schema() -> dict[str, Any]:
    """The schema, as JSON types."""
    made = Config.model_json_schema(schema_generator=_Generator)
    return {"$schema": DIALECT, "title": "Configuration of iser-target"} | made


def schema_text() -> str:
    """The schema as it is published in ``docs/config.schema.json``."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
