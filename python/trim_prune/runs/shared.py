"""A run of several processes: the first one has its folder, the others hear from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..budget import Budget
from ..digest import checksum, checksum_of
from ..errors import TrimPruneError
from ..models.discover import Block, Linear
from ..models.output import Output
from ..permutation import Move
from ..results import LinearResult
from ..states import States
from ..team import Team
from .earlier import Earlier
from .entries import budget_of, entry_of
from .fingerprint import Fingerprint
from .folder import Run, run_folder


class SharedRun:
    """What the walk over the blocks asks of a run; each method is called by all ranks."""

    def __init__(self, out: Path, run: Run | None, team: Team) -> None:
        """``run``: None on all ranks but the first."""
        self.out, self.run, self._team = out.absolute(), run, team

    @property
    def folder(self) -> Path | None:
        """Where files of this process may lie, if there is such a place."""
        return None if self.run is None else self.run.folder

    @property
    def model(self) -> Path | None:
        """The unfinished output, for the rank that writes it."""
        return None if self.run is None else self.run.model

    def begin(
        self,
        fingerprint: Fingerprint,
        output: Callable[[Run], Output],
        blocks: Sequence[Block],
        warn: Callable[[str], None],
        earlier: Earlier | None,
        batch_size: int | str,
    ) -> None:
        """See :meth:`Run.begin`."""
        self._of_first(lambda run: run.begin(fingerprint, output(run), blocks, warn, earlier, batch_size))

    def batch_size(self) -> int | None:
        """See :attr:`Run.batch_size`."""
        known: int | None = self._of_first(lambda run: run.batch_size)
        return known

    @cached_property
    def done(self) -> list[dict[str, Any]]:
        """The entries of the blocks that are finished as the run begins, in order."""
        done: list[dict[str, Any]] = self._of_first(lambda run: run.done)
        return done

    def budgets(self, linears: Sequence[Linear]) -> dict[Linear, Budget] | None:
        """See :meth:`Run.budgets`."""
        known = self._of_first(Run.budgets)
        return None if known is None else dict(zip(linears, map(budget_of, known), strict=True))

    def keep_budgets(self, budgets: Mapping[Linear, Budget]) -> None:
        """See :meth:`Run.keep_budgets`."""
        self._of_first(lambda run: run.keep_budgets(list(map(entry_of, budgets.values()))))

    def gradients(self, linears: Sequence[Linear]) -> dict[Linear, Tensor] | None:
        """See :meth:`Run.gradients`."""
        known = None if self.run is None else self.run.gradients(linears)
        if not self._team.lead(lambda: known is not None):
            return None
        found = {linear: torch.empty(linear.shape[0]) for linear in linears} if known is None else known
        self._team.copy(list(found.values()))
        return found

    def keep_gradients(self, gradients: Mapping[Linear, Tensor]) -> None:
        """See :meth:`Run.keep_gradients`."""
        self._of_first(lambda run: run.keep_gradients(gradients))

    def digest(self, states: States) -> str:
        """A checksum of the hidden states of all sequences."""
        return checksum_of(line for lines in self._team.exchange(states.descriptions()) for line in lines)

    def restore(self, states: States, index: int, digest: str) -> bool:
        """Give each rank its hidden states at a block; False, and nothing is done, if they were not kept."""
        kept = None if self.run is None else self.run.states(index)
        if not self._team.lead(lambda: kept is not None and checksum(kept) == digest):
            return False
        states.restore(self._team.from_first(kept or [], len(states.sequences())))
        return True

    def load(self, block: Block) -> None:
        """Give a block the weights that it had when it was finished."""
        if self.run is not None:
            self.run.load(block)
        self._team.copy([parameter.data for parameter in block.parameters.values()])

    def round(self, block: Block) -> None:
        """See :meth:`Run.round`."""
        if self._of_first(lambda run: run.round(block)):
            self._team.copy([linear.whole.data for linear in _one_each(block)])

    def add(
        self,
        block: Block,
        results: Sequence[LinearResult],
        masks: Mapping[str, Tensor],
        moves: Sequence[Move],
        states: States,
        digests: tuple[str, str],
        seconds: Mapping[str, float],
    ) -> None:
        """See :meth:`Run.add`."""
        kept = self._team.to_first(states.sequences()) if states.kept_on_disk else []
        self._of_first(lambda run: run.add(block, results, masks, moves, kept, digests, seconds))

    def finish(self, results: Sequence[LinearResult]) -> None:
        """See :meth:`Run.finish`."""
        self._of_first(lambda run: run.finish(results))

    def describe(self, tell: Callable[[Run], None]) -> None:
        """Have the first rank add what there is to say of the run."""
        self._of_first(tell)

    def _of_first(self, ask: Callable[[Run], Any]) -> Any:
        def asked() -> Any:
            assert self.run is not None
            return ask(self.run)

        return self._team.lead(asked)


@contextmanager
def shared_run(out: Path, resume: bool, warn: Callable[[str], None], team: Team) -> Iterator[SharedRun]:
    """See :func:`run_folder`: the output has its name on return, for all ranks."""
    with ExitStack() as stack:
        yield SharedRun(out, stack.enter_context(run_folder(out, resume, warn)) if team.first else None, team)
    team.lead(lambda: None)


def require_alike(fields: Fingerprint, team: Team) -> None:
    """An error if ranks differ in what a result depends on; the time when a file was changed is not among that."""
    lasting = {name: value[0] if _is_file(name, value) else value for name, value in fields.items()}
    told = team.exchange({name: value for name, value in lasting.items() if not name.startswith("earlier.")})
    for rank, theirs in enumerate(told):
        for name in {**told[0], **theirs}:
            if told[0].get(name) != theirs.get(name):
                raise TrimPruneError(
                    f"the ranks are not alike: they differ in {name}",
                    where=f"rank {rank}",
                    expected=f"{told[0].get(name)}, as rank 0",
                    got=str(theirs.get(name)),
                    fix="start all with the same model, text, code, library versions, kind of device and number of "
                    "threads",
                )


def _is_file(name: str, value: Any) -> bool:
    """Whether a field is the size of a file and the time of its last change."""
    return name.startswith("model.") and isinstance(value, list)


def _one_each(block: Block) -> list[Linear]:
    """A linear of each parameter that is pruned."""
    return list({linear.weight_name: linear for linear in block.linears}.values())
