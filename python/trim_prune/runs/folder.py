"""The folder of a run that writes a model: what is done is in it, and another process goes on from there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrimPruneError
from ..models.discover import Block, Linear
from ..models.output import Output
from ..models.staging import publish, repair, write_errors
from ..permutation import Move
from ..results import LinearResult
from .earlier import Earlier
from .entries import plain
from .fingerprint import Fingerprint, refuse_other
from .journal import JOURNAL_FILE, Journal, unfinished
from .writer import Writer

GRADIENTS_FILE = "gradients.safetensors"


class Run:
    """A run and its folder, ``<out>.unfinished``.

    In the folder: ``model``, the output as far as it is done; ``journal.jsonl``, one line for the fingerprint, one for
    output gradients, one for the layer budget, and one for each block that is written; ``states-N.safetensors``, the
    hidden states that enter block N; ``gradients.safetensors``.
    """

    def __init__(self, out: Path) -> None:
        """Open the folder, or make it.

        Raises:
            TrimPruneError: another process writes the same output, or something else has that name.
        """
        self.out, self.folder = out, unfinished(out)
        self.model = self.folder / "model"
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / JOURNAL_FILE).is_file():
            raise TrimPruneError(
                "a folder that no run has left is in the way",
                where=str(self.folder),
                fix="move it, or choose another --out",
            )
        try:
            self._journal = Journal(self.folder / JOURNAL_FILE)
        except BlockingIOError as error:
            raise TrimPruneError(
                "another run writes this output", where=str(out), fix="wait for it, or choose another --out"
            ) from error
        if not self.model.is_dir():
            self.forget()
        self._writer = Writer()
        self._output: Output | None = None
        self._blocks: Sequence[Block] = ()
        self._begun = False
        self.kept_zeros: dict[str, int] = {}

    @property
    def done(self) -> list[dict[str, Any]]:
        """The entries of the blocks that are finished, in order."""
        return [entry for entry in self._journal.entries if "block" in entry]

    @property
    def worth_keeping(self) -> bool:
        """Whether another process could begin later than this one did."""
        return len(self._journal.entries) > 1

    def forget(self) -> None:
        """Begin anew: nothing of what was done counts."""
        self._journal.keep(0)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != JOURNAL_FILE:
                path.unlink()
        self.model.mkdir()

    def require_empty(self) -> None:
        """An error if an unfinished run has done something: for a run that begins with the first block, always."""
        if self.worth_keeping:
            raise TrimPruneError(
                "an unfinished run for this output is another one",
                where=str(self.folder),
                got="a structured prune, which begins with the first block",
                fix="go on with what it began with; or give another --out; or give --no-resume, and it is lost",
            )

    def begin(
        self,
        fingerprint: Fingerprint,
        output: Output,
        blocks: Sequence[Block],
        warn: Callable[[str], None],
        earlier: Earlier | None = None,
        batch_size: int | str = "auto",
    ) -> None:
        """Go on with what is there if it is of the same fingerprint, or lay out the files of the output.

        ``earlier``: a run whose first blocks this one begins with. ``batch_size``: sequences at once, for a process
        that goes on.

        Raises:
            TrimPruneError: what is there is of another run, or the output cannot be written.
        """
        self._output, self._blocks = output, blocks
        if self.worth_keeping:
            refuse_other(self._journal.entries[0].get("fingerprint", {}), fingerprint, self.folder)
        if output.renamed:
            warn("transformers renames weights of this model while loading; it is saved under the new names")
        with write_errors(self.out):
            if not (goes_on := self.worth_keeping):
                self._journal.keep(0)
                self._journal.add({"fingerprint": fingerprint, "batch_size": batch_size})
            output.prepare(anew=not goes_on)
            if earlier is not None:
                self._take_over(earlier, output)
            for entry, block in zip(self.done, blocks, strict=False):
                if output.checksum(block) != entry["weights"]:
                    self._journal.keep(self._journal.entries.index(entry))
                    warn(f"what was written of {block.name} is damaged: it is pruned again, and what follows it")
                    break
        self.kept_zeros = {name: zeros for entry in self.done for name, zeros in entry["kept_zeros"].items()}
        self._begun = True

    def _take_over(self, earlier: Earlier, output: Output) -> None:
        for block in self._blocks[len(self.done) : earlier.block]:
            checksum, kept_zeros = output.copy(block, earlier.shards, earlier.masks)
            results = [result for result in earlier.results if result["block"] == block.index]
            self._journal.add(
                {
                    "block": block.index,
                    "inputs": None,
                    "outputs": None,
                    "results": results,
                    "seconds": {},
                    "weights": checksum,
                    "kept_zeros": kept_zeros,
                }
            )

    @property
    def batch_size(self) -> int | None:
        """How many sequences an earlier process took at once; None if there was none, or it ran no forward."""
        found = self._journal.entries[0].get("batch_size") if self._journal.entries else None
        return found if isinstance(found, int) else None

    def budgets(self) -> list[list[int]] | None:
        """How the target was divided, linear by linear; None if it was not yet."""
        entry = next((entry for entry in self._journal.entries if "budgets" in entry), None)
        return None if entry is None else entry["budgets"]

    def keep_budgets(self, budgets: Sequence[list[int]]) -> None:
        """Note how the target was divided, unless that is known."""
        if not any("budgets" in entry for entry in self._journal.entries):
            with write_errors(self.out):
                self._journal.add({"budgets": list(budgets)})

    def gradients(self, linears: Sequence[Linear]) -> dict[Linear, Tensor] | None:
        """The output gradients that were measured; None if they were not."""
        known = any("gradients" in entry for entry in self._journal.entries)
        found = _read(self.folder / GRADIENTS_FILE) if known else None
        return None if found is None else {linear: found[linear.name] for linear in linears}

    def keep_gradients(self, gradients: Mapping[Linear, Tensor]) -> None:
        """Note what output gradients were measured."""
        self._save({linear.name: gradient for linear, gradient in gradients.items()}, GRADIENTS_FILE)
        with write_errors(self.out):
            self._journal.add({"gradients": GRADIENTS_FILE})

    def states(self, index: int) -> list[Tensor] | None:
        """The hidden states of the sequences that enter the block of that index, if they were kept."""
        found = _read(self.folder / f"states-{index}.safetensors")
        return None if found is None else [found[str(number)] for number in range(len(found))]

    def load(self, block: Block) -> None:
        """Give a block the weights that it had when it was finished."""
        assert self._output is not None
        self._output.load(block)

    def round(self, block: Block) -> bool:
        """Bring a pruned block to the types in which it will be written; whether that changed any."""
        assert self._output is not None
        return self._output.round(block)

    def add(
        self,
        block: Block,
        results: Sequence[LinearResult],
        masks: Mapping[str, Tensor],
        moves: Sequence[Move],
        states: Sequence[Tensor],
        digests: tuple[str, str],
        seconds: Mapping[str, float],
    ) -> None:
        """Hand over a finished block; a thread writes it while the next one is pruned.

        ``states``: those of the sequences that the next block gets, if they are to be kept. ``digests``: of the hidden
        states before and after the block. ``seconds``: of the run so far, by phase.
        """
        output = self._output
        assert output is not None
        index = block.index
        # Before the block counts as finished; those before it go when it does.
        if states:
            self._save({str(n): tensor for n, tensor in enumerate(states)}, f"states-{index + 1}.safetensors")
        weights = {name: parameter.detach().cpu() for name, parameter in block.parameters.items()}
        entry = {
            "block": index,
            "inputs": digests[0],
            "outputs": digests[1],
            "results": [plain(result) for result in results],
            "seconds": dict(seconds),
        }

        def write() -> None:
            checksum, kept_zeros = output.write(block, weights, masks, moves)
            weights.clear()
            self._journal.add(entry | {"weights": checksum, "kept_zeros": kept_zeros})
            self.kept_zeros |= kept_zeros
            (self.folder / f"states-{index}.safetensors").unlink(missing_ok=True)

        with write_errors(self.out):
            self._writer.submit(write)

    def finish(self, results: Sequence[LinearResult]) -> None:
        """Wait for the last block, and make the output whole."""
        assert self._output is not None
        with write_errors(self.out):
            self._writer.wait()
            self._output.finish(results, self.kept_zeros)

    def publish(self) -> None:
        """Give the output its name, and remove the folder."""
        with write_errors(self.out):
            publish(self.model, self.out)
        self._journal.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self, warn: Callable[[str], None]) -> None:
        """End without an output: the folder stays if another process could go on from it."""
        self._writer.close()
        keep = self.worth_keeping
        self._journal.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._begun:
            blocks = f"{len(self.done)} of {len(self._blocks)} blocks are done"
            warn(f"{blocks} and kept in {self.folder}: the same command goes on from there")

    def _save(self, tensors: Mapping[str, Tensor], name: str) -> None:
        partial = self.folder / f"{name}.partial"
        with write_errors(self.out):
            save_file({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}, partial)
            partial.rename(self.folder / name)


@contextmanager
def run_folder(out: Path, resume: bool, warn: Callable[[str], None]) -> Iterator[Run]:
    """The run of an output, which has its name when the body ends without error; ``warn`` tells how to go on if not."""
    out = out.absolute()
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        run = Run(out)
        repair(out)
        if not (resume and run.worth_keeping):
            # A killed process may have left files that are not of this output.
            run.forget()
    try:
        yield run
        run.publish()
    except BaseException:
        run.leave(warn)
        raise


def _read(path: Path) -> dict[str, Tensor] | None:
    """All tensors of a file of ours, mapped into memory; None if it is not there, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError):
        return None
