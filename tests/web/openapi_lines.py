"""Turn an OpenAPI document into sorted lines: one for each operation, parameter, response, and field of a schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RULES = ("pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "default", "format", "enum")
"""The keywords of a schema that a line repeats, apart from its type."""
OF_FASTAPI = frozenset({"HTTPValidationError", "ValidationError"})
"""The schemas that FastAPI adds. They differ between its versions, and no response has them."""

Schema = Mapping[str, Any]


def openapi_lines(document: Schema) -> list[str]:
    """Return the lines of a document."""
    rest = (f"{name}: {document[name]}" for name in document.keys() - {"paths", "components"})
    return sorted([*_of_paths(document["paths"]), *_of_schemas(document["components"]["schemas"]), *rest])


def _of_paths(paths: Schema) -> Iterator[str]:
    for path, methods in paths.items():
        for method, found in methods.items():
            name = f"{method.upper()} {path}"
            yield f"{name}: {found['operationId']}, {' '.join(found['description'].split())}"
            for each in found.get("parameters", ()):
                yield f"{name} {each['in']} {each['name']}: {_field(each['schema'] | each, each['required'])}"
            if "requestBody" in found:
                is_required = found["requestBody"].get("required", False)
                yield f"{name} body: {_content(found['requestBody'])}, {'required' if is_required else 'optional'}"
            yield f"{name} 200: {_content(found['responses']['200'])}"
            yield f"{name} problems: {', '.join(sorted(found['responses'].keys() - {'200'}))}"


def _of_schemas(schemas: Schema) -> Iterator[str]:
    for name in schemas.keys() - OF_FASTAPI:
        required = schemas[name].get("required", ())
        yield f"schema {name}: {_field(schemas[name])}"
        for field, found in schemas[name].get("properties", {}).items():
            yield f"schema {name}.{field}: {_field(found, field in required)}"


def _content(found: Schema) -> str:
    [(kind, content)] = found["content"].items()
    return f"{kind} {_type(content['schema'])}"


def _field(schema: Schema, *required: bool) -> str:
    only_known = ["no other fields"] if schema.get("additionalProperties") is False else []
    words = [" ".join(schema["description"].split())] if "description" in schema else []
    return ", ".join([_type(schema), *("required" if each else "optional" for each in required), *only_known, *words])


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    rules = "".join(f" {rule} {schema[rule]}" for rule in RULES if rule in schema)
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"])) + rules
    items = f" of {_type(schema['items'])}" if "items" in schema else ""
    return f"{schema.get('type', 'any')}{items}{rules}"
