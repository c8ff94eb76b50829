"""Recipes from plain values and from YAML files; what is wrong with them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, SerializerFunctionWrapHandler, ValidationError, model_serializer

from .errors import TrimPruneError, nearest
from .options import Strict


class RecipeBase(Strict):
    """A recipe of some kind.

    ``groups``: the fields that hold the options of single methods, and those that choose the method of each, of which
    one may be within such options: ``msp.score``.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @model_serializer(mode="wrap")
    def _without_unused_groups(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return {
            key: value
            for key, value in values.items()
            if key not in self.groups or key in [method_at(self, field) for field in self.groups[key]]
        }

    @classmethod
    def build(cls, values: dict[str, Any], *, where: str = "recipe") -> Self:
        """A recipe from plain values; an error says which are wrong and what would be right."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise TrimPruneError(f"{where}: {'; '.join(_explain(cls, detail) for detail in error.errors())}") from None

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """A recipe from a YAML file, completed by values given elsewhere (command-line options).

        A value given in both places that differs is an error: nothing is overridden silently.
        """
        values = read_values(path, overrides or {})
        try:
            return cls.build(values, where=str(path))
        except TrimPruneError as error:
            raise error.at(str(path)) from None


def read_values(path: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe in a YAML file, completed by others."""
    return _merge(_read_yaml(Path(path)), overrides, str(path))


def begin_with(preset: dict[str, Any], given: dict[str, Any], groups: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """A preset completed by what is given; the options of a method that is not chosen any more go with it.

    ``groups``: the fields that choose the method whose options each group holds.
    """
    merged = preset | given
    for key, options in preset.items():
        if key in given and isinstance(options, dict) and isinstance(given[key], dict):
            merged[key] = options | given[key]
        if key in groups and key not in given and key not in [method_at(merged, field) for field in groups[key]]:
            del merged[key]
    return merged


def method_at(values: Any, field: str) -> Any:
    """What a field such as ``score`` or ``msp.score`` chooses, in a recipe or in plain values; None if it does not."""
    for name in field.split("."):
        values = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
    return values


def require_used(method: str, chosen: Mapping[str, str | None]) -> None:
    """An error unless a method whose options are given is among the chosen ones, which are given by field."""
    if method not in chosen.values():
        right = " or ".join(f"{field}: {method}" for field in chosen)
        raise TrimPruneError(
            f"the options of {method} are given, and nothing reads them",
            got=", ".join(f"{field}: {name}" for field, name in chosen.items() if name is not None),
            fix=f"remove the options under {method}, or choose {right}",
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrimPruneError(f"cannot read the recipe: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrimPruneError(f"the recipe is not valid YAML: {error}", where=str(path)) from None
    if not isinstance(values, dict):
        raise TrimPruneError(
            "the recipe is not a table",
            where=str(path),
            expected="lines such as 'sparsity: 0.7'",
            got=repr(values),
        )
    return values


def _merge(values: dict[str, Any], overrides: Mapping[str, Any], path: str, parents: str = "") -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, path, f"{parents}{key}.")
        elif key in merged and merged[key] != value:
            raise TrimPruneError(
                f"{parents}{key} is given twice, with different values",
                got=f"{value!r}, and {merged[key]!r} in {path}",
                fix="remove one of the two",
            )
        else:
            merged[key] = value
    return merged


def _explain(model: type[BaseModel], detail: Any) -> str:
    *parents, name = detail["loc"]
    for parent in parents:
        field = model.model_fields.get(str(parent))
        # A group is a model of its own, or a tuple of them.
        for kind in (field.annotation, *get_args(field.annotation)) if field else ():
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = list(model.model_fields)
        return f"unknown key {key!r} ({nearest(str(name), known) or 'known: ' + ', '.join(known)})"
    if detail["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {detail['msg']}, got {detail['input']!r}"
