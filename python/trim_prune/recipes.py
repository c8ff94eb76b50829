"""A recipe of either kind, by what it says: single weights go, or whole heads and channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import presets
from .recipe import Recipe
from .recipe_file import read_values
from .structured.recipe import TARGETS, StructuredRecipe

AnyRecipe = Recipe | StructuredRecipe


def as_recipe(recipe: AnyRecipe | dict[str, Any] | str | Path) -> AnyRecipe:
    """A recipe as it is, or from its values, or from a YAML file."""
    if isinstance(recipe, (Recipe, StructuredRecipe)):
        return recipe
    return build_recipe(recipe) if isinstance(recipe, dict) else load_recipe(recipe)


def build_recipe(values: dict[str, Any], *, where: str = "recipe") -> AnyRecipe:
    """A structured recipe if its preset or its target is one of those; otherwise a recipe with a sparsity."""
    return _kind(values).build(values, where=where)


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> AnyRecipe:
    """As :func:`build_recipe`, from a YAML file completed by values given elsewhere."""
    return _kind(read_values(path, overrides or {})).load(path, overrides)


def _kind(values: dict[str, Any]) -> type[Recipe] | type[StructuredRecipe]:
    structured = values.get("preset") in presets.names(presets.STRUCTURED) or any(name in values for name in TARGETS)
    return StructuredRecipe if structured else Recipe
