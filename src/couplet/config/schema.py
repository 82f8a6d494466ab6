"""The JSON schema of a parameter file, for editors: ``python -m couplet.config.schema``."""

from __future__ import annotations

import json
from typing import Any

from couplet.config.layers import WHEN
from couplet.config.params import Params
from couplet.config.recipes import Recipe

OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": False}


def schema() -> dict[str, Any]:
    """The schema of a parameter file; sections require nothing, as another layer may have the rest."""
    file = Params.model_json_schema()
    recipe = Recipe.model_json_schema(ref_template="#/$defs/{model}")
    definitions = {**file["$defs"], **recipe.pop("$defs")}
    for definition in (recipe, *definitions.values()):
        definition.pop("required", None)
    definitions["Recipe"] = _draft(recipe)
    drafts = [{"$ref": "#/$defs/Recipe"}, {"type": "array", "items": {"$ref": "#/$defs/Recipe"}}]
    by_name = {"type": "object", "additionalProperties": {"anyOf": drafts}}
    properties = file["properties"]
    properties["base"] = {"type": "string", "description": "The file that this one lies over."}
    properties["recipes"] |= by_name
    properties["every_recipe"]["anyOf"] = [*drafts, {"type": "null"}]
    description = properties["set"]["description"]
    properties["set"] = {**OBJECT, "properties": {"recipes": by_name}, "description": description}
    of_scale = {key: {"$ref": f"#/properties/{key}"} for key in properties.keys() - {"scale", "set"}}
    definitions["Scale"] = {**OBJECT, "properties": of_scale}
    properties["scales"] = {
        "type": "object",
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Scale"}, {"type": "null"}]},
        "description": "Layers by name, each with the keys of a file; `--scale` chooses one.",
    }
    complete = [{"required": ["base"]}, {"required": file.pop("required")}]
    return {**file, "$defs": definitions, "anyOf": complete}


def _draft(recipe: dict[str, Any]) -> dict[str, Any]:
    """The schema of a recipe as it is written: with a base and overrides."""
    names = {"type": ["string", "array"], "items": {"type": "string"}}
    when = {**OBJECT, "properties": dict.fromkeys(WHEN, names), "minProperties": 1}
    coupling = {"type": "object", "description": "Settings of the cell's coupling."}
    settings = {key: {"$ref": f"#/$defs/Recipe/properties/{key}"} for key in recipe["properties"]}
    override = {**settings, "when": when, "coupling": coupling}
    own = {
        "base": {"type": "string", "description": "The recipe that this one lies over."},
        "overrides": {
            "type": ["array", "null"],
            "items": {**OBJECT, "properties": override, "required": ["when"]},
            "description": "Settings of the cells that `when` describes; the last that holds wins.",
        },
    }
    return {**recipe, "properties": {**recipe["properties"], **own}}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
