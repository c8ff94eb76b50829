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
"""Bound on the block outputs that are kept for the offspring of candidates."""
POSITIONS_AT_ONCE = 512

Path = tuple[tuple[int, ...], ...]
"""A candidate, block by block: the levels of the linears of each."""


@dataclass(frozen=True)
class Stage:
    """The tokens that a stage adds to those of the stages before it, captured at the first block.

    ``dense``: what the dense model's last block makes of them, batch by batch; None if nothing is compared with it.
    """

    token_ids: list[Tensor]
    states: States
    dense: list[Tensor] | None

    @property
    def predictions(self) -> int:
        """How many tokens are predicted."""
        return sum(ids.shape[0] * (ids.shape[1] - 1) for ids in self.token_ids)


def held_out_stages(dense: DenseModel, stages: Sequence[int], kl: bool) -> list[Stage]:
    """The held-out sequences, divided among stages of so many tokens."""
    held_out = dense.calibration.held_out
    ends = _ends(stages, held_out.shape[1])
    return [_stage(dense, held_out[first:last], kl) for first, last in pairwise(ends)]


def _stage(dense: DenseModel, token_ids: Tensor, kl: bool) -> Stage:
    batches = list(torch.split(token_ids, dense.batch_size))
    captured: list[Captured] = []
    for batch in batches:
        captured.append(dense.capture(batch, captured[-1] if captured else None))
    states = States(captured, dense.device)
    return Stage(batches, states, _unpruned(dense, states) if kl else None)


def _unpruned(dense: DenseModel, states: States) -> list[Tensor]:
    walked = states.twin()
    for block in dense.blocks:
        with on_device(block, dense.device):
            walked.propagate(block)
    return walked.hidden


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
        stages: Sequence[Stage],
    ) -> None:
        self.dense, self.ranks = dense, ranks
        self._unit = {linear: number for number, unit in enumerate(units) for linear in unit}
        self._stages = stages
        self._kept: list[dict[Path, list[Tensor]]] = [{} for _ in stages]
        self._stride = 1
        self._sums: list[dict[Levels, float]] = [{} for _ in stages]
        self.block_runs = 0

    def __call__(self, candidates: Sequence[Levels], stage: int) -> list[float]:
        """The losses by the tokens of this stage and those before it, which have to be judged first."""
        sums = self._sums[stage]
        fresh = [levels for levels in candidates if levels not in sums]
        if fresh:
            finals = self._run([self._path(levels) for levels in fresh], stage)
            sums.update(zip(fresh, self._losses(finals, stage), strict=True))
        tokens = sum(part.predictions for part in self._stages[: stage + 1])
        return [sum(part[levels] for part in self._sums[: stage + 1]) / tokens for levels in candidates]

    def retain(self, candidates: Iterable[Levels]) -> None:
        """Keep the outputs of blocks that these have in common with what comes, and drop the others."""
        paths = [self._path(levels) for levels in candidates]
        prefixes = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
        for kept in self._kept:
            for path in [path for path in kept if path not in prefixes]:
                del kept[path]

    def _path(self, levels: Levels) -> Path:
        return tuple(tuple(levels[self._unit[linear]] for linear in block.linears) for block in self.dense.blocks)

    def _run(self, paths: Sequence[Path], stage: int) -> list[list[Tensor]]:
        """The outputs of the last block, all candidates block by block: every distinct beginning runs once."""
        blocks, states, kept = self.dense.blocks, self._stages[stage].states, self._kept[stage]
        reached = [_depth(path, kept) for path in paths]
        # Held here, since what is kept may be thinned out on the way.
        starts = {path[:known]: kept[path[:known]] for path, known in zip(paths, reached, strict=True) if known}
        before: dict[Path, list[Tensor]] = {(): states.hidden}
        for depth, block in enumerate(blocks, start=1):
            wanted = {path[:depth] for path, known in zip(paths, reached, strict=True) if known < depth}
            after: dict[Path, list[Tensor]] = {}
            if not wanted:
                continue
            with on_device(block, self.dense.device), restored(block) as dense:
                for levels, prefixes in _by_last(wanted).items():
                    self._mask(dense, levels)
                    for prefix in prefixes:
                        after[prefix] = self._block(block, states, before.get(prefix[:-1]) or starts[prefix[:-1]])
            if depth < len(blocks) and depth % self._stride == 0:
                self._keep(stage, after)
            before = after
        return [before[path] for path in paths]

    def _keep(self, stage: int, outputs: Mapping[Path, list[Tensor]]) -> None:
        """Keep outputs of every block, or, where they get too many, of every second one, every fourth, and so on."""
        self._kept[stage].update(outputs)
        while self._stride < len(self.dense.blocks) and self._kept_bytes() > CACHE_BYTES:
            self._stride *= 2
            for kept in self._kept:
                for path in [path for path in kept if len(path) % self._stride]:
                    del kept[path]

    def _kept_bytes(self) -> int:
        outputs = [hidden for kept in self._kept for output in kept.values() for hidden in output]
        return sum(hidden.numel() * hidden.element_size() for hidden in outputs)

    def _block(self, block: Block, states: States, hidden: Sequence[Tensor]) -> list[Tensor]:
        self.block_runs += 1
        walked = states.twin()
        walked.hidden = list(hidden)
        walked.propagate(block)
        return walked.hidden

    def _mask(self, dense: Mapping[Linear, Tensor], levels: tuple[int, ...]) -> None:
        for (linear, weight), level in zip(dense.items(), levels, strict=True):
            pruned = self.ranks[linear].to(weight.device) >= level
            linear.weight.copy_(weight).masked_fill_(pruned, 0)

    def _losses(self, finals: Sequence[Sequence[Tensor]], stage: int) -> list[float]:
        """The summed loss of each candidate over the tokens of one stage."""
        sums, part = [0.0] * len(finals), self._stages[stage]
        for number, ids in enumerate(part.token_ids):
            for row, start in product(range(ids.shape[0]), range(0, ids.shape[1] - 1, POSITIONS_AT_ONCE)):
                # The last token of a sequence predicts nothing that is known.
                place = slice(row, row + 1), slice(start, min(start + POSITIONS_AT_ONCE, ids.shape[1] - 1))
                judge: Callable[[Tensor], float]
                if part.dense is not None:
                    judge = _Divergence(self._logits(ids[place], part.dense[number][place]))
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
def restored(block: Block) -> Iterator[dict[Linear, Tensor]]:
    """Copies of the weights of a block, which has them again afterwards."""
    dense = {linear: linear.weight.clone() for linear in block.linears}
    try:
        yield dense
    finally:
        for linear, weight in dense.items():
            linear.weight.copy_(weight)


def _depth(path: Path, kept: Mapping[Path, list[Tensor]]) -> int:
    return next((depth for depth in range(len(path), 0, -1) if path[:depth] in kept), 0)


def _by_last(prefixes: Iterable[Path]) -> dict[tuple[int, ...], list[Path]]:
    groups: dict[tuple[int, ...], list[Path]] = {}
    for prefix in sorted(prefixes):
        groups.setdefault(prefix[-1], []).append(prefix)
    return groups
