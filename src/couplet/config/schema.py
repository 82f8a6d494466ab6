"""The JSON schema of params.yaml, for editors: ``python -m couplet.config.schema``."""

from __future__ import annotations

import json
from typing import Any

from couplet.config.params import Params
from couplet.config.recipes import Recipe


def schema() -> dict[str, Any]:
    """The schema of a parameter file, recipes with their overrides included."""
    made = Params.model_json_schema()
    recipe = Recipe.model_json_schema(ref_template="#/$defs/{model}")
    made["$defs"].update(recipe.pop("$defs"))
    recipe["properties"]["overrides"] = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["when"],
            "properties": {
                "when": {
                    "type": "object",
                    "properties": {
                        name: {"type": ["string", "array"], "items": {"type": "string"}}
                        for name in ("dataset", "kernel", "coupling", "scale")
                    },
                    "additionalProperties": False,
                    "minProperties": 1,
                }
            },
        },
    }
    # What is left out stands in the recipe that it is like, or in the file that its file lies over.
    recipe.pop("required")
    recipe["properties"]["like"] = {"type": "string", "description": "The recipe that this one lies over."}
    made["properties"]["recipes"]["additionalProperties"] = recipe
    made["properties"]["base"] = {"type": "string", "description": "The file that this one lies over."}
    made["anyOf"] = [{"required": ["base"]}, {"required": made.pop("required")}]
    return made


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
