"""Which columns share a group of a pattern: RIA's channel permutation (Zhang et al., ICLR 2024)."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

import trim_kernels

from ..errors import TrimPruneError
from ..pattern import Keep

GROUPS_AT_ONCE = 384
"""Groups among which columns are assigned anew in one go, as the time of it grows with the cube: all 2240 groups of
8960 columns at once take ten times as long. Four parts in place of one cost SmolLM2-135M a tenth of the gain."""


def require_scipy() -> None:
    """An error unless scipy, which solves the assignments, is installed."""
    if find_spec("scipy") is None:
        raise TrimPruneError(
            "permute needs scipy, which is not installed",
            fix="pip install 'trim-kernels[permute]', or pip install scipy",
        )


def find_order(score: Tensor, keep: Keep) -> Tensor:
    """An order of the columns of ``score`` float32 [R, C] in which a pattern keeps much of its sum.

    Columns sorted by their sums are dealt to the groups in turns, there and back. Then, for each place in the groups,
    the column there is taken out of every group, and what was taken out is assigned anew so that most is kept; a second
    round over the places would find a twentieth more. A group whose other columns have in row i their keep-th largest
    score t_i gains sum_i max(s_i - t_i, 0) from a column s. As max(x, 0) = (x + abs(x)) / 2, and the sum over all
    groups of s_i - t_i is the same for every assignment, the best one has the largest sum of the distances
    sum_i abs(s_i - t_i).

    Where the columns as they are keep more than the dealt ones, they are what is improved: the order never keeps less
    than theirs. The columns of a shorter last group stay where they are. Deterministic.

    Args:
        score: finite, >= 0.

    Returns:
        int64 [C]: the column that comes to each place.
    """
    columns = torch.arange(score.shape[1], device=score.device)
    whole = len(columns) // keep.of * keep.of
    if whole <= keep.of or keep.keep in (0, keep.of):
        return columns
    scaled = score[:, :whole] / score.amax().clamp(min=torch.finfo(score.dtype).tiny)
    groups = columns[:whole].view(-1, keep.of)
    dealt = _dealt(scaled, keep)
    best, total = kept_sum(scaled, keep), kept_sum(scaled[:, dealt.flatten()], keep)
    if total > best:
        best, groups = total, dealt
    generator = torch.Generator().manual_seed(0)
    for place in range(keep.of):
        changed = _assigned(scaled, groups, place, keep, generator)
        total = kept_sum(scaled[:, changed.flatten()], keep)
        if total > best:
            best, groups = total, changed
    return torch.cat([groups.flatten(), columns[whole:]])


def kept_sum(score: Tensor, keep: Keep) -> float:
    """The sum of the scores [R, C] that a pattern keeps."""
    return float(score.masked_fill(~trim_kernels.nm_mask(score, *keep), 0).sum(dtype=torch.float64))


def _dealt(score: Tensor, keep: Keep) -> Tensor:
    """int64 [groups, of]: columns from the strongest on, dealt to groups in snake order."""
    rounds = score.sum(dim=0, dtype=torch.float64).argsort(descending=True, stable=True).view(keep.of, -1)
    rounds[1::2] = rounds[1::2].flip(1)
    return rounds.t()


def _assigned(score: Tensor, groups: Tensor, place: int, keep: Keep, generator: torch.Generator) -> Tensor:
    """``groups`` with the columns at one place assigned anew."""
    from scipy.optimize import linear_sum_assignment

    taken, others = groups[:, place], torch.cat([groups[:, :place], groups[:, place + 1 :]], dim=1)
    threshold = score[:, others].topk(keep.keep, dim=2).values[..., -1]
    changed = groups.clone()
    parts = -(-len(groups) // GROUPS_AT_ONCE)
    for part in torch.randperm(len(groups), generator=generator).to(score.device).chunk(parts):
        distance = torch.cdist(threshold[:, part].t(), score[:, taken[part]].t(), p=1)
        _, columns = linear_sum_assignment(distance.cpu().numpy(), maximize=True)
        changed[part, place] = taken[part][torch.from_numpy(columns).to(score.device)]
    return changed
