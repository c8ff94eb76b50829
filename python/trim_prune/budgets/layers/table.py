"""Table layers: the recipe says which linears get which sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...errors import TrimPruneError
from ...models.discover import Linear
from ...options import TableRule
from .base import LayerRequest, register_layer_budget
from .exact import exact_counts


@register_layer_budget("table")
def table(request: LayerRequest) -> Sequence[float]:
    """The sparsity of its rule for a linear that one matches; the others share the rest of the target evenly.

    A ruled linear loses round(sparsity * weights) weights. The shares that are returned are whole numbers of weights
    and meet the target, so that nothing is left to shift or to round. If every linear has a rule, the rules have to
    meet the target by themselves, within half a weight.

    Raises:
        TrimPruneError: a rule without a linear, two sparsities for one linear, a rule above what the row
            budget takes, or rules that leave the other linears a sparsity that they cannot have.
    """
    ruled = _ruled(request.recipe.table, request.linears)
    _refuse_above_limit(request, ruled)
    rest = [index for index, linear in enumerate(request.linears) if linear not in ruled]
    if not rest:
        _refuse_other_mean(request, ruled)
        return [ruled[linear].sparsity for linear in request.linears]
    counts = [round(ruled[linear].sparsity * linear.size) if linear in ruled else 0 for linear in request.linears]
    sizes, limits = [request.linears[index].size for index in rest], [request.limits[index] for index in rest]
    left = request.prune_count - sum(counts)
    if not 0 <= left <= sum(limits):
        raise TrimPruneError(
            "the rules of layer budget 'table' leave the other linears a sparsity that they cannot have",
            where=", ".join(_show(rule) for rule in request.recipe.table),
            expected=f"0 to {sum(limits)} of the {sum(sizes)} weights of the {len(rest)} linears without a rule",
            got=f"{left} ({left / sum(sizes):.4f}), for a sparsity of {request.sparsity} in the whole",
            fix="lower the sparsities of the rules" if left < 0 else "raise the sparsities of the rules",
        )
    for index, count in zip(rest, exact_counts([0.0] * len(rest), sizes, limits, left), strict=True):
        counts[index] = count
    return [count / linear.size for count, linear in zip(counts, request.linears, strict=True)]


def _ruled(rules: Sequence[TableRule], linears: Sequence[Linear]) -> dict[Linear, TableRule]:
    """The rule of each linear that has one."""
    ruled: dict[Linear, TableRule] = {}
    for rule in rules:
        matched = [linear for linear in linears if fnmatchcase(linear.name, rule.match)]
        if not matched:
            raise TrimPruneError(
                "a rule of layer budget 'table' matches no linear",
                where=_show(rule),
                expected=f"a pattern over names such as {linears[0].name}",
            )
        for linear in matched:
            first = ruled.setdefault(linear, rule)
            if first.sparsity != rule.sparsity:
                raise TrimPruneError(
                    "two rules of layer budget 'table' give one linear different sparsities",
                    where=linear.name,
                    got=f"{_show(first)}, {_show(rule)}",
                )
    return ruled


def _refuse_above_limit(request: LayerRequest, ruled: dict[Linear, TableRule]) -> None:
    for linear, limit in zip(request.linears, request.limits, strict=True):
        rule = ruled.get(linear)
        if rule is not None and round(rule.sparsity * linear.size) > limit:
            raise TrimPruneError(
                f"a rule of layer budget 'table' is out of reach of row budget {request.recipe.rows!r}",
                where=f"{linear.name}, {_show(rule)}",
                expected=f"at most {limit} of {linear.size} weights ({limit / linear.size:.4f})",
            )


def _refuse_other_mean(request: LayerRequest, ruled: dict[Linear, TableRule]) -> None:
    wanted = sum(rule.sparsity * linear.size for linear, rule in ruled.items())
    if abs(wanted - request.prune_count) > 0.5:
        mean = wanted / sum(linear.size for linear in ruled)
        raise TrimPruneError(
            "the rules of layer budget 'table' cover every linear and miss the sparsity",
            where=", ".join(_show(rule) for rule in request.recipe.table),
            expected=f"a mean over all weights of {request.sparsity}",
            got=str(mean),
            fix=f"sparsity: {mean}, or leave some linears without a rule",
        )


def _show(rule: TableRule) -> str:
    return f"{{match: {rule.match!r}, sparsity: {rule.sparsity}}}"
