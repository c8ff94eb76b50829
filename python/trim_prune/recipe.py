"""What to do: everything a run needs to know, typed and validated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from . import presets
from .budgets.layers import LAYER_BUDGETS
from .budgets.rows import ROW_BUDGETS
from .calibration.statistics import Need
from .errors import TrimPruneError
from .options import (
    AlphaPruningOptions,
    AlpsOptions,
    BatchSize,
    DlpOptions,
    MspOptions,
    OptimalOptions,
    OwlOptions,
    Real,
    RiaOptions,
    SparseGPTOptions,
    SwapsOptions,
    TableRule,
    TrimOptions,
    Whole,
)
from .pattern import Pattern
from .recipe_file import RecipeBase, begin_with, method_at, require_used
from .scores import SCORES
from .solvers import SOLVERS

GROUPS = {
    "trim": ("rows",),
    "owl": ("layers",),
    "alphapruning": ("layers",),
    "dlp": ("layers",),
    "msp": ("layers",),
    "table": ("layers",),
    "ria": ("score", "msp.score"),
    "optimal": ("rows", "layers"),
    "sparsegpt": ("solver",),
    "swaps": ("solver",),
    "alps": ("solver",),
}
"""The options of single methods: each group has its method's name; here are the fields that choose it."""


def _pattern(value: Any) -> Any:
    return Pattern.parse(value) if isinstance(value, str) else value


def _sparsity_of(pattern: Any) -> dict[str, float]:
    """The sparsity that a pattern implies; nothing of one that implies none, or is none."""
    try:
        return {"sparsity": _pattern(pattern).sparsity}
    except (ValueError, AttributeError):
        return {}


SOMETIMES = {"damping", "tokens_per_sequence", "recapture"}
"""Fields that only some choices read."""


class Recipe(RecipeBase):
    """A prune, in full. ``sparsity`` is the share of the weights of all linears in the blocks that go.

    The options of a method can be given only with the method, and a dumped recipe holds no others.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = GROUPS

    sparsity: Real = Field(ge=0, le=1)
    preset: str | None = None
    """The recipe with a name that this one begins with; what is given beside it takes the place of what it says."""
    score: str = "wanda"
    rows: str = "trim"
    layers: str = "uniform"
    solver: str = "mask"
    pattern: Annotated[InstanceOf[Pattern], BeforeValidator(_pattern), PlainSerializer(str)] | None = None
    """Keep n of every m consecutive columns: "keep 2 of 4", whose sparsity need not be said; or "of 8", where the layer
    budget says how many. Takes the place of a row budget; one that says what stays, also of the layers of a preset."""
    permute: bool = Field(default=False, strict=True)
    """Whether columns of linears are reordered, so that the groups of the pattern keep more, where the linears before
    can be reordered with them and the model stays the same function."""
    samples: Whole = Field(default=128, ge=1)
    seqlen: Whole | None = Field(default=None, ge=2)
    """Tokens per calibration sequence; None: 2048, or the model's context if that is shorter."""
    seed: Whole = Field(default=0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tokens_per_sequence: Whole = Field(default=1, ge=1)
    recapture: bool = Field(default=False, strict=True)
    correction: Real = Field(default=0.0, ge=0, le=1)
    """Share of what earlier blocks changed that the weights of a linear make up for before they are pruned."""
    damping: Annotated[Real, Field(ge=0)] | None = None
    """Added to the diagonal of Gram matrices before they are inverted, as a share of its mean; None: to each entry
    2 * columns / tokens of itself."""
    batch_size: BatchSize = "auto"
    device: str = "auto"
    strict: bool = Field(default=False, strict=True)
    """Whether a linear that needs a fallback, such as a repaired factorisation, is an error."""
    allow_uncovered: bool = Field(default=False, strict=True)
    """Whether more than a hundredth of the weights of the blocks may lie outside linears, and stay dense."""
    trim: TrimOptions = TrimOptions()
    owl: OwlOptions = OwlOptions()
    alphapruning: AlphaPruningOptions = AlphaPruningOptions()
    dlp: DlpOptions = DlpOptions()
    msp: MspOptions = MspOptions()
    table: tuple[TableRule, ...] = ()
    ria: RiaOptions = RiaOptions()
    optimal: OptimalOptions = OptimalOptions()
    sparsegpt: SparseGPTOptions = SparseGPTOptions()
    swaps: SwapsOptions = SwapsOptions()
    alps: AlpsOptions = AlpsOptions()

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {
            key: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            for key, value in values.items()
        }
        preset = presets.read(values["preset"]) if isinstance(values.get("preset"), str) else {}
        if (pattern := values.get("pattern", preset.get("pattern"))) is not None:
            # It leaves nothing to a row budget, and a whole one says what every linear keeps. A preset that has a
            # pattern itself chose its layers for it.
            whole = _sparsity_of(pattern)
            layers = {"layers": "uniform"} if whole and "pattern" not in preset else {}
            preset = preset | {"rows": "uniform"} | layers | whole
        merged = begin_with(preset, values, GROUPS)
        own = preset.keys() & SOMETIMES - values.keys()
        return cls._without_unread(merged, own) if own else merged

    @classmethod
    def _without_unread(cls, merged: dict[str, Any], own: Iterable[str]) -> dict[str, Any]:
        """What a preset says of these fields goes if nothing reads it any more."""
        rest = {key: value for key, value in merged.items() if key not in own and key != "preset"}
        try:
            trial = cls.model_validate(rest)
        except (ValidationError, TrimPruneError):
            # It will be told when the whole is validated.
            return merged
        whole = trial.model_copy(update={key: merged[key] for key in own})
        unread = {name for name, _, _ in whole._unread()}
        return {key: value for key, value in merged.items() if key not in own or key not in unread}

    @field_validator("score", "rows", "layers", "solver")
    @classmethod
    def _is_registered(cls, value: str, info: Any) -> str:
        registries = {"score": SCORES, "rows": ROW_BUDGETS, "layers": LAYER_BUDGETS, "solver": SOLVERS}
        registries[info.field_name].get(value)  # type: ignore[attr-defined]
        return value

    @field_validator(*GROUPS)
    @classmethod
    def _is_used(cls, value: Any, info: Any) -> Any:
        method, fields = info.field_name, GROUPS[info.field_name]
        # A field that is not there was wrong, which is told.
        chosen = {
            field: method_at(info.data, field) if field.split(".")[0] in info.data else method for field in fields
        }
        require_used(method, chosen)
        return value

    @model_validator(mode="after")
    def _fits_pattern(self) -> Recipe:
        if self.pattern is None:
            if self.permute:
                raise TrimPruneError(
                    "permute is given, and there are no groups to order columns for",
                    fix="give a pattern: keep 2 of 4, or remove permute",
                )
            return self
        if self.pattern.keep is not None and not math.isclose(self.sparsity, self.pattern.sparsity):
            raise TrimPruneError(
                "the pattern and the sparsity contradict each other",
                expected=f"sparsity {self.pattern.sparsity}, which is {self.pattern}",
                got=str(self.sparsity),
                fix=f"leave the sparsity out, or write pattern: of {self.pattern.of}",
            )
        if self.pattern.keep is not None and self.layers != "uniform":
            raise TrimPruneError(
                f"a pattern says what every linear keeps, and layer budget {self.layers!r} says otherwise",
                got=f"pattern: {self.pattern}, layers: {self.layers}",
                fix=f"write pattern: of {self.pattern.of} and sparsity: {self.pattern.sparsity:g}, or layers: uniform",
            )
        if self.rows != "uniform":
            raise TrimPruneError(
                "a pattern leaves nothing to a row budget",
                got=f"pattern: {self.pattern}, rows: {self.rows}",
                fix="leave rows out",
            )
        able = [name for name in SOLVERS.names() if SOLVERS.get(name).patterns]
        if self.solver not in able:
            raise TrimPruneError(
                f"solver {self.solver!r} knows no patterns",
                expected="one of " + ", ".join(able),
                got=f"pattern: {self.pattern}",
            )
        return self

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Recipe:
        for name, value, why in self._unread():
            raise TrimPruneError(
                f"{name} is given, and nothing reads it", got=f"{name}: {value}", fix=f"remove it: {why}"
            )
        if self.layers == "msp":
            self._fits_msp()
        if self.layers == "table" and not self.table:
            raise TrimPruneError(
                "layer budget 'table' has no rules", fix="table: [{match: '*.down_proj', sparsity: 0.6}]"
            )
        return self

    def _unread(self) -> Iterator[tuple[str, Any, str]]:
        """What is not as by default and makes no difference: its name, its value, and why."""
        needs, msp, alps = self.needs | LAYER_BUDGETS.get(self.layers).needs, self.msp, self.alps
        if self.layers == "msp" and msp.score is not None:
            needs |= SCORES.get(msp.score).needs
        if self.damping is not None and "gram" not in needs:
            yield "damping", self.damping, "score, rows, solver and correction need no Gram matrix"
        if self.tokens_per_sequence != 1 and "search_inputs" not in needs:
            yield "tokens_per_sequence", self.tokens_per_sequence, f"rows {self.rows!r} look at no single tokens"
        if self.recapture and not self.needs:
            yield "recapture", self.recapture, "score, rows and solver measure no inputs"
        if self.layers == "msp" and self.pattern is not None and msp.step != MspOptions().step:
            yield "msp.step", msp.step, f"with pattern {self.pattern} levels are whole numbers of weights"
        if self.layers == "msp" and msp.sensitivity == "none" and msp.scale != MspOptions().scale:
            yield "msp.scale", msp.scale, "sensitivity: none has nothing to scale"
        if self.layers == "msp" and msp.sensitivity == "none" and msp.sequences != MspOptions().sequences:
            yield "msp.sequences", msp.sequences, "sensitivity: none measures on no sequences"
        if self.solver == "alps" and alps.support == "score":
            for name in ("iterations", "rho"):
                if (value := getattr(alps, name)) != getattr(AlpsOptions(), name):
                    yield f"alps.{name}", value, "it is ADMM's, which support: score goes without"

    def _fits_msp(self) -> None:
        if self.msp.score is not None:
            SCORES.get(self.msp.score)
        most = None if self.pattern is None else 1 - 1 / self.pattern.of
        if most is not None and self.sparsity > most:
            raise TrimPruneError(
                "the sparsity is out of reach of layer budget 'msp', which keeps a weight of every group",
                expected=f"at most {most:g} with pattern: {self.pattern}",
                got=str(self.sparsity),
                fix="choose larger groups, or go without a pattern",
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The calibration statistics that correction, score, row budget and solver need together."""
        methods = SCORES.get(self.score).needs | ROW_BUDGETS.get(self.rows).needs | SOLVERS.get(self.solver).needs
        return methods | {"gram", "drift"} if self.correction else methods

    @property
    def gradient_sequences(self) -> int:
        """How many calibration sequences measure output gradients; 0 if nothing needs them."""
        needs = self.needs | LAYER_BUDGETS.get(self.layers).needs
        return self.optimal.sequences if "output_gradient" in needs else 0

    @property
    def needs_text(self) -> bool:
        """Whether anything has to be measured on calibration text."""
        return bool(self.needs) or LAYER_BUDGETS.get(self.layers).needs_text
