"""Which KV groups stay: Pearson similarity of the attention's output with greedy swaps (SlimLLM), and baselines.

SlimLLM (Guo et al. 2025, arXiv 2505.22689) compares whole outputs, tokens by heads by dimensions. Everything it asks of
them is in their covariances, which are sums over tokens: o_u = A_u W_u^T being what unit u adds to the output, and A
the input of the consumer with covariance S,

    gram[d, u, v] = cov(o_u[d], o_v[d]) = W_u[d] S_uv W_v[d]^T
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def unit_gram(weight: Tensor, covariance: Tensor, units: int) -> Tensor:
    """[D, U, U] from the weight [D, C] of the consumer and the covariance [C, C] of what enters it, C = U * width."""
    outputs, width = weight.shape[0], weight.shape[1] // units
    gram = weight.new_empty(outputs, units, units)
    for unit in range(units):
        columns = slice(unit * width, (unit + 1) * width)
        products = (weight[:, columns] @ covariance[columns]) * weight
        gram[:, unit] = products.view(outputs, units, width).sum(dim=2)
    return gram


@dataclass(frozen=True)
class Similarity:
    """How alike the output of some units is to that of all: P(S) = sum_d |Pearson_t(sum_{u in S} o_u[d], O[d])|.

    A dimension whose output does not vary, or not any more, adds nothing. ``gram`` [D, U, U]; ``shared`` [D, U]: its
    sums over the last unit, cov(o_u[d], O[d]); ``total`` [D]: those of that, var(O[d]).
    """

    gram: Tensor
    shared: Tensor
    total: Tensor

    @classmethod
    def of(cls, gram: Tensor) -> Similarity:
        shared = gram.sum(dim=2)
        return cls(gram, shared, shared.sum(dim=1))

    def without_one(self) -> Tensor:
        """[U]: P of all units but one, for each of them."""
        own = self.gram.diagonal(dim1=1, dim2=2)
        total = self.total[:, None]
        return self._sum(total - self.shared, total - 2 * self.shared + own)

    def kept(self, units: Tensor) -> float:
        """P of some units."""
        variance = self.gram[:, units][:, :, units].sum(dim=(1, 2))
        return float(self._sum(self.shared[:, units].sum(dim=1, keepdim=True), variance[:, None]))

    def swapped(self, units: Tensor, new: int) -> Tensor:
        """[len(units)]: P of the units with each of them in turn replaced by a new one."""
        rows = self.gram[:, units]
        inside = rows[:, :, units]
        beside = rows[:, :, new]
        shared = self.shared[:, units]
        covariance = shared.sum(dim=1, keepdim=True) - shared + self.shared[:, new, None]
        variance = inside.sum(dim=(1, 2))[:, None] - 2 * inside.sum(dim=2) + inside.diagonal(dim1=1, dim2=2)
        variance = variance + 2 * (beside.sum(dim=1, keepdim=True) - beside) + self.gram[:, new, new, None]
        return self._sum(covariance, variance)

    def _sum(self, covariance: Tensor, variance: Tensor) -> Tensor:
        # What rounding leaves of a variance that is none would be a correlation of anything.
        least = torch.finfo(variance.dtype).eps * self.gram.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True)
        varies = (variance > least) & (self.total[:, None] > least)
        product = torch.where(varies, variance * self.total[:, None], 1.0)
        return torch.where(varies, covariance.abs() / product.sqrt(), 0.0).sum(dim=0)


def most_similar(gram: Tensor, count: int, *, swaps: bool) -> list[int]:
    """The units that stay, ascending, when ``count`` go: those without which the output stays most alike go first.

    ``swaps``: afterwards each unit that went, in turn, takes the place of the one in whose place it betters P(S) most,
    if it betters it at all; which leaves for good. Ties go to the lower unit.
    """
    similarity = Similarity.of(gram)
    order = torch.sort(similarity.without_one(), descending=True, stable=True).indices.tolist()
    gone, kept = order[:count], sorted(order[count:])
    for unit in gone if swaps else ():
        now = torch.tensor(kept, device=gram.device)
        found, best = similarity.swapped(now, unit), similarity.kept(now)
        place = int(found.argmax())
        if float(found[place]) > best:
            kept[place] = unit
    return sorted(kept)


def least_error(weight: Tensor, inverse: Tensor, units: int, count: int) -> list[int]:
    """The units that stay when ``count`` go, one by one, each the one that costs the outputs least.

    ``inverse`` float64 [C, C]: that of the damped covariance. When unit u goes, the others make up for it by
    W <- W - W_u inverse_uu^-1 inverse_u, and what is lost is tr(W_u inverse_uu^-1 W_u^T) (optimal brain surgeon).
    """
    weight, inverse = weight.to(inverse.dtype), inverse.clone()
    width, kept = weight.shape[1] // units, list(range(units))
    for _ in range(count):
        losses = [_loss(weight, inverse, slice(unit * width, (unit + 1) * width)) for unit in kept]
        unit = kept.pop(losses.index(min(losses)))
        columns = slice(unit * width, (unit + 1) * width)
        step = torch.linalg.solve(inverse[columns, columns], inverse[columns])
        weight = weight - weight[:, columns] @ step
        inverse = inverse - inverse[:, columns] @ step
    return kept


def _loss(weight: Tensor, inverse: Tensor, columns: slice) -> float:
    block = weight[:, columns]
    return float((torch.linalg.solve(inverse[columns, columns], block.mT) * block.mT).sum())
