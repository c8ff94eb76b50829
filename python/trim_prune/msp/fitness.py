"""How good a candidate is: the model with its masks on, run on held-out tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import torch
from torch import Tensor
from torch.nn import functional

from ..dense import DenseModel
from ..models.capture import Captured
from ..models.device import on_device
from ..models.discover import Block, Linear
from ..states import States
from ..tiles import row_tiles
from .space import Levels

CACHE_BYTES = 2 << 30
"""Bound on the block outputs that a stage keeps for the offspring of its candidates."""
POSITIONS_AT_ONCE = 512

Path = tuple[tuple[int, ...], ...]
"""A candidate, block by block: the levels of the linears of each."""


@dataclass(frozen=True)
class Stage:
    """The tokens that a stage adds to those of the stages before it, and outputs of blocks by path, kept for later."""

    token_ids: list[Tensor]
    states: States
    kept: dict[Path, list[Tensor]]

    @property
    def predictions(self) -> int:
        """How many tokens are predicted."""
        return sum(ids.shape[0] * (ids.shape[1] - 1) for ids in self.token_ids)


class Fitness:
    """Losses of candidates, in nats per token: KL(dense || pruned) of the predictions, or negative log-likelihood.

    A candidate is no copy of the weights. ``ranks[linear]`` (uint8 [R, C]) says at which level each weight stays:
    where ``rank < level``. Masks are put on one block at a time, in place, once for all candidates that want that
    level there, and taken off again. Candidates that begin alike run their common blocks once, also over generations:
    ``retain`` says which outputs to keep.
    """

    def __init__(
        self,
        dense: DenseModel,
        units: Sequence[Sequence[Linear]],
        ranks: Mapping[Linear, Tensor],
        stages: Sequence[int],
        kl: bool,
    ) -> None:
        self.dense, self.ranks, self.kl = dense, ranks, kl
        self._unit = {linear: number for number, unit in enumerate(units) for linear in unit}
        held_out = dense.calibration.held_out
        ends = _ends(stages, held_out.shape[1])
        self._stages = [self._stage(held_out[first:last]) for first, last in pairwise(ends)]
        self._sums: list[dict[Levels, float]] = [{} for _ in self._stages]
        self._dense = [self._unpruned(stage.states) for stage in self._stages] if kl else []
        self.block_runs = 0

    def __call__(self, candidates: Sequence[Levels], stage: int) -> list[float]:
        """The losses by the tokens of this stage and those before it, which have to be judged first."""
        sums = self._sums[stage]
        fresh = [levels for levels in candidates if levels not in sums]
        if fresh:
            finals = self._run([self._path(levels) for levels in fresh], self._stages[stage])
            sums.update(zip(fresh, self._losses(finals, stage), strict=True))
        tokens = sum(part.predictions for part in self._stages[: stage + 1])
        return [sum(part[levels] for part in self._sums[: stage + 1]) / tokens for levels in candidates]

    def retain(self, candidates: Iterable[Levels]) -> None:
        """Keep the outputs of blocks that these have in common with what comes, and drop the others."""
        paths = [self._path(levels) for levels in candidates]
        prefixes = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
        for stage in self._stages:
            for path in [path for path in stage.kept if path not in prefixes]:
                del stage.kept[path]

    def _stage(self, token_ids: Tensor) -> Stage:
        batches = list(torch.split(token_ids, self.dense.batch_size))
        captured: list[Captured] = []
        for batch in batches:
            captured.append(self.dense.capture(batch, captured[-1] if captured else None))
        return Stage(batches, States(captured, self.dense.device), {})

    def _path(self, levels: Levels) -> Path:
        return tuple(tuple(levels[self._unit[linear]] for linear in block.linears) for block in self.dense.blocks)

    def _unpruned(self, states: States) -> list[Tensor]:
        walked = states.twin()
        for block in self.dense.blocks:
            with on_device(block.module, self.dense.device):
                walked.propagate(block)
        return walked.hidden

    def _run(self, paths: Sequence[Path], stage: Stage) -> list[list[Tensor]]:
        """The outputs of the last block, all candidates block by block: every distinct beginning runs once."""
        blocks = self.dense.blocks
        reached = [_depth(path, stage.kept) for path in paths]
        stride = self._stride(len(paths), stage)
        before: dict[Path, list[Tensor]] = {(): stage.states.hidden}
        for depth, block in enumerate(blocks, start=1):
            wanted = {path[:depth] for path, known in zip(paths, reached, strict=True) if known < depth}
            after: dict[Path, list[Tensor]] = {}
            with on_device(block.module, self.dense.device), _restored(block) as dense:
                for levels, prefixes in _by_last(wanted).items():
                    self._mask(dense, levels)
                    for prefix in prefixes:
                        hidden = before.get(prefix[:-1]) or stage.kept[prefix[:-1]]
                        after[prefix] = self._block(block, stage, hidden)
            if depth % stride == 0 or depth == len(blocks):
                stage.kept.update(after)
            before = after
        return [stage.kept[path] for path in paths]

    def _block(self, block: Block, stage: Stage, hidden: Sequence[Tensor]) -> list[Tensor]:
        self.block_runs += 1
        states = stage.states.twin()
        states.hidden = list(hidden)
        states.propagate(block)
        return states.hidden

    def _mask(self, dense: Mapping[Linear, Tensor], levels: tuple[int, ...]) -> None:
        for (linear, weight), level in zip(dense.items(), levels, strict=True):
            pruned = self.ranks[linear].to(weight.device) >= level
            linear.module.weight.data.copy_(weight).masked_fill_(pruned, 0)

    def _stride(self, candidates: int, stage: Stage) -> int:
        """Outputs are kept of every so many blocks."""
        size = sum(hidden.numel() * hidden.element_size() for hidden in stage.states.hidden)
        return max(1, math.ceil(size * candidates * len(self.dense.blocks) / CACHE_BYTES))

    def _losses(self, finals: Sequence[Sequence[Tensor]], stage: int) -> list[float]:
        """The summed loss of each candidate over the tokens of one stage."""
        sums = [0.0] * len(finals)
        for number, ids in enumerate(self._stages[stage].token_ids):
            for row, start in product(range(ids.shape[0]), range(0, ids.shape[1] - 1, POSITIONS_AT_ONCE)):
                # The last token of a sequence predicts nothing that is known.
                place = slice(row, row + 1), slice(start, min(start + POSITIONS_AT_ONCE, ids.shape[1] - 1))
                judge: Callable[[Tensor], float]
                if self.kl:
                    judge = _Divergence(self._logits(ids[place], self._dense[stage][number][place]))
                else:
                    judge = partial(_surprise, ids[row, place[1].start + 1 : place[1].stop + 1])
                for candidate, final in enumerate(finals):
                    sums[candidate] += judge(self._logits(ids[place], final[number][place]))
        return sums

    def _logits(self, token_ids: Tensor, hidden: Tensor) -> Tensor:
        return self.dense.capture.logits(token_ids, hidden)[0]


class _Divergence:
    """KL(dense || found) = sum p log p - sum p log q over the vocabulary, summed over positions.

    The probabilities p are those of the dense logits [positions, vocabulary].
    """

    def __init__(self, dense: Tensor) -> None:
        self.dense = torch.empty(dense.shape, dtype=torch.float32, device=dense.device)
        for rows in row_tiles(dense):
            torch.softmax(dense[rows].float(), dim=-1, out=self.dense[rows])
        self.own = self._cross(dense)

    def __call__(self, logits: Tensor) -> float:
        return float(self._cross(logits) - self.own)

    def _cross(self, logits: Tensor) -> Tensor:
        """The cross entropy of the dense model's predictions and these."""
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for rows in row_tiles(logits):
            found = logits[rows].float().log_softmax(dim=-1)
            total -= torch.linalg.vecdot(self.dense[rows], found).sum(dtype=torch.float64)
        return total


def _surprise(targets: Tensor, logits: Tensor) -> float:
    """The negative log-likelihood of the targets, summed over positions."""
    targets, total = targets.to(logits.device), torch.zeros((), dtype=torch.float64, device=logits.device)
    for rows in row_tiles(logits):
        total += functional.cross_entropy(logits[rows].float(), targets[rows], reduction="sum")
    return float(total)


def sequences_wanted(stages: Sequence[int], seqlen: int) -> int:
    """How many held-out sequences the stages need."""
    return _ends(stages, seqlen)[-1]


def _ends(stages: Sequence[int], seqlen: int) -> list[int]:
    """So many sequences has each stage, with those before it: whole ones, at least one more than the stage before."""
    ends = [0]
    for tokens in stages:
        ends.append(max(math.ceil(tokens / seqlen), ends[-1] + 1))
    return ends


@contextmanager
def _restored(block: Block) -> Iterator[dict[Linear, Tensor]]:
    """Copies of the weights of a block, which has them again afterwards."""
    dense = {linear: linear.module.weight.data.clone() for linear in block.linears}
    try:
        yield dense
    finally:
        for linear, weight in dense.items():
            linear.module.weight.data.copy_(weight)


def _depth(path: Path, kept: Mapping[Path, list[Tensor]]) -> int:
    return next((depth for depth in range(len(path), 0, -1) if path[:depth] in kept), 0)


def _by_last(prefixes: Iterable[Path]) -> dict[tuple[int, ...], list[Path]]:
    groups: dict[tuple[int, ...], list[Path]] = {}
    for prefix in sorted(prefixes):
        groups.setdefault(prefix[-1], []).append(prefix)
    return groups
