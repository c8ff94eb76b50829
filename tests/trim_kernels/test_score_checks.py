"""The checks for authors of plug-ins pass what is right and name what is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trim_kernels import pack_bits, prune_rows_, row_mask, testing


def importance(column_scale=None, score=None):
    return SimpleNamespace(column_scale=column_scale, score=score)


def energy(inputs):
    return inputs.float().square().sum((0, 1))


def drawn_anew(weight, inputs):
    return importance(score=torch.rand(weight.shape))


def overwrites(weight, inputs):
    return importance(score=weight.abs_().float())


RIGHT_SCORES = {
    "neither": lambda weight, inputs: importance(),
    "column_scale": lambda weight, inputs: importance(column_scale=energy(inputs).sqrt()),
    "score": lambda weight, inputs: importance(score=weight.float().abs()),
}
WRONG_SCORES = {
    "both": (lambda w, x: importance(torch.ones(w.shape[1]), torch.ones(w.shape)), "at most one of the two, got both"),
    "scale of rows": (lambda w, x: importance(torch.ones(len(w) + 1)), r"column_scale: expected float32 \[\d+\]"),
    "transposed": (lambda w, x: importance(score=w.float().abs().t()), r"score: expected float32 \[\d+, \d+\]"),
    "in the weight's dtype": (lambda w, x: importance(score=w.abs()), "score: expected float32 .*, got bfloat16"),
    "in float64": (lambda w, x: importance(energy(x).double()), "column_scale: expected float32 .*, got float64"),
    "no tensor": (lambda w, x: importance(score=0.0), "score: expected float32 .*, got float"),
    "negative": (lambda w, x: importance(score=w.float()), "score: expected values >= 0, got -"),
    "squares": (lambda w, x: importance(score=w.float().square()), "score: expected finite values, got inf"),
    "divides by the input": (
        lambda w, x: importance(1 / energy(x)),
        "column_scale: expected finite .*inf",
    ),
    "zero by zero": (lambda w, x: importance(score=w.abs().float() / w.abs().float().sum(1, True)), "got nan"),
    "drawn anew": (drawn_anew, "score: expected the same values in a second call"),
    "overwrites the weight": (overwrites, "weight: expected it untouched"),
    "refuses": (lambda w, x: [].index(0), "0 is not in list"),
}


@pytest.mark.parametrize("score", RIGHT_SCORES.values(), ids=RIGHT_SCORES)
def test_a_right_score_passes(score):
    testing.check_score(score)


@pytest.mark.parametrize(("score", "message"), WRONG_SCORES.values(), ids=WRONG_SCORES)
def test_a_wrong_score_is_named_with_the_matrix(score, message):
    with pytest.raises(AssertionError, match=rf"^score of \w+ in \w+, (a )?zero inputs?: .*{message}"):
        testing.check_score(score)


def mask(weight, inputs, prune_count):
    kept = row_mask(weight, prune_count, packed=True)
    prune_rows_(weight, prune_count)
    return kept


def then(change):
    """A solver that is right but for what ``change(weight, kept)`` does afterwards; it may return another ``kept``."""

    def solve(weight, inputs, prune_count):
        kept = mask(weight, inputs, prune_count)
        changed = change(weight, kept)
        return kept if changed is None else changed

    return solve


def one_column_more(weight, inputs, prune_count):
    return mask(weight, inputs, (prune_count + 1).clamp(max=weight.shape[1]))


def rows_changed_about(weight, inputs, prune_count):
    return mask(weight, inputs, prune_count.flip(0))


def fills(weight, kept):
    weight.fill_(1)


def divides_by_zero(weight, kept):
    weight.div_(0)


def draws_anew(weight, kept):
    weight.masked_fill_(weight != 0, float(torch.rand(())))


WRONG_SOLVERS = {
    "bools": (then(lambda weight, kept: weight != 0), r"kept: expected uint8 \[\d+, \d+\] .*, got bool"),
    "unused bits": (then(lambda weight, kept: kept | 0x80), "kept: expected 0 in the unused bits"),
    "inverted": (then(lambda weight, kept: pack_bits(weight == 0)), "kept: expected .* weights pruned of the rows"),
    "one column more": (one_column_more, "kept: expected .* weights pruned of the rows"),
    "rows changed about": (rows_changed_about, "kept: expected .* weights pruned of the rows"),
    "all ones": (then(fills), "weight: expected zeros where kept is 0"),
    "not finite": (then(divides_by_zero), "weight: expected finite values, got (nan|inf|-inf)"),
    "draws anew": (then(draws_anew), "weight, kept: expected the same values in a second call"),
}


def test_a_right_solver_passes():
    testing.check_solver(mask)


@pytest.mark.parametrize(("solve", "message"), WRONG_SOLVERS.values(), ids=WRONG_SOLVERS)
def test_a_wrong_solver_is_named_with_the_matrix(solve, message):
    with pytest.raises(AssertionError, match=rf"^solver on \w+ in \w+, (a )?zero inputs?: {message}"):
        testing.check_solver(solve)
