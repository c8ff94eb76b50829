"""What to do in a structured prune: whole KV groups and channels go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    Field,
    field_validator,
    model_validator,
)

from .. import presets
from ..errors import TrimPruneError
from ..options import BatchSize, Real, Strict, Whole
from ..recipe_file import RecipeBase, begin_with, require_used
from .repair import Repair

Mode = Literal["ragged", "uniform", "masked"]

GROUPS = {
    "cosine": ("layers",),
    "table": ("layers",),
    "pearson": ("heads",),
    "feature": ("channels",),
    "full": ("repair",),
}
"""The options of single methods: each group has its method's name; here are the fields that choose it."""
TARGETS = ("params", "ratio", "sizes")


class Sizes(Strict):
    """What every block keeps, in place of a share of the parameters. ``kv_groups``: each with its query heads."""

    kv_groups: Whole = Field(ge=1)
    channels: Whole = Field(ge=1)


class CosineOptions(Strict):
    """Options of cosine layers; see ``ratios.by_cosine``.

    ``blocks``: the share of the blocks that may lose anything. ``temperature``: the larger, the more unlike their
    ratios. For LLaMA-7B the authors took 26 of 32 blocks and 10 to lose 20%, 30 and 7 to lose 50%.
    """

    blocks: Real = Field(default=0.9375, gt=0, le=1)
    temperature: Real = Field(default=7.0, ge=0)


class BlockRule(Strict):
    """One rule of table layers: the share of the units of the blocks whose names match a pattern that goes.

    ``match``: as in a shell: ``model.layers.[01]``, ``*.layers.2?``.
    """

    match: str = Field(min_length=1)
    ratio: Real = Field(ge=0, lt=1)


class PearsonOptions(Strict):
    """Options of pearson heads. ``swaps``: whether units that went may take the place of others, one pass."""

    swaps: bool = Field(default=True, strict=True)


class FeatureOptions(Strict):
    """Options of feature channels; see ``channels.feature_score``.

    ``weighting``: whether directions of the output count by its variance. ``normalise``: whether the three terms count
    alike. ``keep_lowest``: so large a share of the channels, those of the smallest scores, stays; 0.01 as published.
    """

    weighting: bool = Field(default=True, strict=True)
    normalise: bool = Field(default=False, strict=True)
    keep_lowest: Real = Field(default=0.0, ge=0, lt=1)


class FullOptions(Strict):
    """Options of the full repair. ``damping``: see ``trim_prune.factor.damped``; None: by the number of tokens."""

    damping: Annotated[Real, Field(ge=0)] | None = None


class StructuredRecipe(RecipeBase):
    """A structured prune, in full. One of ``params``, ``ratio`` and ``sizes`` says how much goes.

    The options of a method can be given only with the method, and a dumped recipe holds no others.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = GROUPS

    params: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Share of all parameters that stays, embeddings among them, tied ones counted once."""
    ratio: Annotated[Real, Field(ge=0, lt=1)] | None = None
    """Share of all parameters that goes."""
    sizes: Sizes | None = None
    preset: str | None = None
    """The recipe with a name that this one begins with; what is given beside it takes the place of what it says."""
    mode: Mode = "ragged"
    """Each block its own size; every block the same, as a plain configuration says; or zeros in the old shapes."""
    multiple: Whole | None = Field(default=None, ge=1)
    """In uniform mode the channels that stay are a multiple of this; None: 8."""
    layers: Literal["cosine", "uniform", "table"] = "uniform"
    heads: Literal["pearson", "obs", "wanda", "magnitude", "none"] = "pearson"
    """What judges KV groups; none: all of them stay."""
    channels: Literal["feature", "obs", "wanda", "magnitude"] = "feature"
    head_share: Annotated[Real, Field(gt=0)] | None = None
    """Ratio of the KV groups as a multiple of that of the channels; None: 1."""
    cap: Annotated[Real, Field(gt=0, lt=1)] | None = None
    """No block loses a larger share of its units, and what this keeps is taken elsewhere; None: 0.9."""
    repair: Repair = "full"
    samples: Whole = Field(default=128, ge=1)
    seqlen: Whole | None = Field(default=None, ge=2)
    """Tokens per calibration sequence; None: 2048, or the model's context if that is shorter."""
    seed: Whole = Field(default=0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: BatchSize = "auto"
    device: str = "auto"
    cosine: CosineOptions = CosineOptions()
    table: tuple[BlockRule, ...] = ()
    pearson: PearsonOptions = PearsonOptions()
    feature: FeatureOptions = FeatureOptions()
    full: FullOptions = FullOptions()

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {
            key: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            for key, value in values.items()
        }
        _refuse_single_weights(values)
        name = values.get("preset")
        preset = presets.read(name, presets.STRUCTURED) if isinstance(name, str) else {}
        if values.get("mode", preset.get("mode")) == "uniform":
            preset = preset | {"layers": "uniform"}
        return begin_with(preset, values, GROUPS)

    @field_validator(*GROUPS)
    @classmethod
    def _is_used(cls, value: Any, info: Any) -> Any:
        require_used(
            info.field_name, {field: info.data.get(field, info.field_name) for field in GROUPS[info.field_name]}
        )
        return value

    @model_validator(mode="after")
    def _has_one_target(self) -> StructuredRecipe:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise TrimPruneError(
                "one number says how much goes" if given else "nothing says how much goes",
                expected="params (the share of parameters that stays), ratio (the share that goes), or sizes",
                got=", ".join(f"{name}: {getattr(self, name)}" for name in given) or None,
                fix="params: 0.8",
            )
        return self

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> StructuredRecipe:
        if self.mode == "uniform":
            self._fits_uniform()
        else:
            for name in ("sizes", "multiple"):
                if getattr(self, name) is not None:
                    raise TrimPruneError(
                        f"{name} says what every block keeps, and in mode {self.mode!r} blocks differ",
                        got=f"{name}: {getattr(self, name)}",
                        fix="mode: uniform",
                    )
        if self.layers == "table" and not self.table:
            raise TrimPruneError("layers: table has no rules", fix="table: [{match: '*.0', ratio: 0.0}]")
        if self.heads == "none" and self.head_share is not None:
            raise TrimPruneError(
                "head_share is given, and nothing reads it",
                got=f"heads: none, head_share: {self.head_share}",
                fix="remove one of them",
            )
        return self

    def _fits_uniform(self) -> None:
        if self.layers != "uniform":
            raise TrimPruneError(
                "in mode 'uniform' every block keeps the same, and the layers say otherwise",
                got=f"mode: uniform, layers: {self.layers}",
                fix="leave layers out, or choose mode: ragged",
            )
        if self.sizes is not None:
            for name in ("multiple", "head_share", "cap"):
                if getattr(self, name) is not None:
                    raise TrimPruneError(
                        f"{name} is given, and nothing reads it, as sizes say what every block keeps",
                        got=f"{name}: {getattr(self, name)}",
                        fix="remove one of them",
                    )

    @property
    def kept_share(self) -> float | None:
        """Share of all parameters that is to stay; None if sizes say it."""
        return self.params if self.ratio is None else 1 - self.ratio

    @property
    def needs_text(self) -> bool:
        """Whether anything has to be measured on calibration text."""
        unmeasured = self.heads in ("magnitude", "none") and self.channels == "magnitude"
        return self.layers == "cosine" or self.repair != "none" or not unmeasured


def _refuse_single_weights(values: Mapping[str, Any]) -> None:
    """An error if a recipe of this kind is mixed with one that prunes single weights."""
    smaller, single = presets.names(presets.STRUCTURED), presets.names()
    if "sparsity" in values or values.get("preset") in single:
        raise TrimPruneError(
            "a smaller model and zeros are asked for at once: sparsity, with or without a preset of its own, asks for "
            "zeros in place of single weights; params, ratio and sizes ask for whole heads and channels to go",
            expected=f"sparsity, with preset {', '.join(single)} or none; or params, ratio or sizes, with preset "
            f"{', '.join(smaller)} or none",
            got=", ".join(f"{key}: {values[key]}" for key in ("sparsity", *TARGETS, "preset") if key in values),
            fix="choose one of the two",
        )
