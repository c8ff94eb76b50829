"""Table layers: the recipe says which linears get which sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...errors import TrimPruneError
from ...models.discover import Linear
from ...options import TableRule
from .base import LayerRequest, register_layer_budget
from .exact import exact_counts
from .keep_counts import keep_counts

WHOLE = 0.02
"""So near to a whole number of weights of a group a sparsity means that number: of thirds, say, in three digits."""


@register_layer_budget("table")
def table(request: LayerRequest) -> Sequence[float]:
    """The sparsity of its rule for a linear that one matches; the others share the rest of the target evenly.

    A ruled linear loses round(sparsity * weights) weights. The shares that are returned are whole numbers of weights,
    or of weights of a group with a pattern, and meet the target, so that nothing is left to shift or to round. If every
    linear has a rule, the rules have to meet the target by themselves, within half a weight.

    Raises:
        TrimPruneError: a rule without a linear, two sparsities for one linear, a rule above what the row
            budget takes or between two patterns, or rules that leave the other linears a sparsity that they cannot
            have.
    """
    pattern = request.recipe.pattern
    rules = request.recipe.table if pattern is None else [_whole(rule, pattern.of) for rule in request.recipe.table]
    ruled = _ruled(rules, request.linears)
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
    if pattern is not None:
        # Half a weight more, since ``left`` comes of a rounded number.
        keeps = keep_counts([left / sum(sizes)] * len(rest), sizes, pattern.of, left - 0.5)
        shares = dict(zip(rest, (1 - keep / pattern.of for keep in keeps), strict=True))
        return [shares[i] if i in shares else ruled[linear].sparsity for i, linear in enumerate(request.linears)]
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


def _whole(rule: TableRule, of: int) -> TableRule:
    """The rule with the sparsity of the pattern that it means; an error for one between two patterns."""
    kept = of * (1 - rule.sparsity)
    if abs(kept - round(kept)) > WHOLE:
        near = [f"{1 - keep / of:g} (keep {keep} of {of})" for keep in (math.ceil(kept), math.floor(kept))]
        raise TrimPruneError(
            "a rule of layer budget 'table' is between two patterns",
            where=_show(rule),
            expected=f"with groups of {of}: {' or '.join(near)}",
            got=str(rule.sparsity),
        )
    return rule.model_copy(update={"sparsity": 1 - round(kept) / of})


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
