"""llm-compressor's modifiers with their own kernels and with ours, and a modifier of ours, on a real model.

    python tests/with_llmcompressor.py -m benchmarks.llm_compressor [--blocks 6] [--samples 8] [--seqlen 256] [--gguf F]

which makes the environment that llm-compressor wants. For each method it prints how much of the masks agrees with those
of llm-compressor as it comes, seconds of choosing and updating weights, and seconds of the whole call of ``oneshot``,
which traces the model and runs its blocks twice. In a whole call a weight that rounding decides changes what later
linears see; so SparseGPT's functions are compared on each linear alone as well, from the same weights and Hessian, and
with what llm-compressor's own finds in float64.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import columns
from trim_prune.demo import find_model, split_topics
from trim_prune.integrations.sparsegpt_blocks import as_matrix, prune_blocks
from trim_prune.models.load import load_model

HEADINGS = ("method", "masks agree %", "choose s, theirs", "ours", "x", "oneshot s, theirs", "ours", "x")
BASES = {kind: f"llmcompressor.modifiers.pruning.{kind}.base" for kind in ("wanda", "sparsegpt")}
IGNORED = ["re:.*lm_head"]


@dataclass(frozen=True)
class Outcome:
    """What is zero, by linear; seconds of choosing weights, and of the whole call."""

    zeros: dict[str, Tensor]
    choosing: float
    whole: float


class Setting:
    """A model of some blocks of a GGUF file, in a folder, and calibration data."""

    def __init__(self, gguf: Path, folder: Path, blocks: int, samples: int, seqlen: int) -> None:
        from datasets import Dataset

        loaded = load_model(gguf)
        model, self.folder, self.samples, self.seqlen = loaded.model, folder, samples, seqlen
        model.model.layers = model.model.layers[:blocks]
        model.config.num_hidden_layers = len(model.model.layers)
        model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        ids = loaded.tokenizer("\n\n".join(split_topics()[0]))["input_ids"][: samples * seqlen]
        rows = torch.tensor(ids).view(samples, seqlen).tolist()
        self.data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * seqlen] * samples})

    def run(self, modifier: Any) -> Outcome:
        """Prune a new copy."""
        from llmcompressor import oneshot
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model: Any = AutoModelForCausalLM.from_pretrained(self.folder)
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        with _Timer() as timer:
            start = time.perf_counter()
            oneshot(
                model=model,
                tokenizer=tokenizer,
                dataset=self.data,
                recipe=modifier,
                num_calibration_samples=self.samples,
                max_seq_length=self.seqlen,
                shuffle_calibration_samples=False,
            )
            whole = time.perf_counter() - start
        linears = {name: module for name, module in model.model.layers.named_modules() if hasattr(module, "weight")}
        zeros = {name: module.weight.detach() == 0 for name, module in linears.items() if module.weight.dim() == 2}
        return Outcome(zeros, timer.seconds, whole)


class _Timer:
    """Seconds in the function of llm-compressor that chooses and updates weights."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._before: dict[Any, Callable[..., Any]] = {}

    def __enter__(self) -> _Timer:
        for name in BASES.values():
            module: Any = importlib.import_module(name)
            self._before[module] = module.sparsify_weight
            module.sparsify_weight = self._timed(module.sparsify_weight)
        return self

    def __exit__(self, *_: object) -> None:
        for module, function in self._before.items():
            module.sparsify_weight = function

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = function(*arguments, **options)
            self.seconds += time.perf_counter() - start
            return found

        return timed


class _LinearByLinear:
    """Stands in for SparseGPT's function: theirs goes on, ours and theirs in float64 are given the same."""

    def __init__(self, theirs: Callable[..., Any]) -> None:
        self.theirs = theirs
        self.weights = 0
        self.agree = {"ours": 0, "theirs in float64": 0}

    def __call__(
        self,
        module: Any,
        hessians_dict: dict[Any, Tensor],
        sparsity: float,
        prune_n: int,
        prune_m: int,
        block_size: int,
        dampening_frac: float,
        preserve_sparsity_mask: bool,
    ) -> Any:
        hessian = hessians_dict[module].clone()
        options = (sparsity, prune_n, prune_m, block_size, dampening_frac)
        ours = as_matrix(module)
        prune_blocks(ours, hessian.clone(), *options)
        twin = copy.deepcopy(module).double()
        functions: Any = importlib.import_module(self.theirs.__module__)
        precision, functions.SGPT_PRECISION = functions.SGPT_PRECISION, torch.float64
        try:
            _, exact = self.theirs(twin, {twin: hessian.double()}, *options, preserve_sparsity_mask)
        finally:
            functions.SGPT_PRECISION = precision
        loss, weight = self.theirs(module, hessians_dict, *options, preserve_sparsity_mask)
        self.weights += weight.numel()
        for name, other in (("ours", ours), ("theirs in float64", exact)):
            self.agree[name] += int(((other == 0) == (weight == 0)).sum())
        return loss, weight

    def __str__(self) -> str:
        shares = (f"{name} {100 * agree / self.weights:.4f}%" for name, agree in self.agree.items())
        return f"masks agree with theirs in float32: {', '.join(shares)}"


def _each_alone(setting: Setting, modifier: Any) -> _LinearByLinear:
    base: Any = importlib.import_module(BASES["sparsegpt"])
    before = base.sparsify_weight
    base.sparsify_weight = compared = _LinearByLinear(getattr(before, "__wrapped__", before))
    try:
        setting.run(modifier)
    finally:
        base.sparsify_weight = before
    return compared


def _modifiers() -> dict[str, Callable[[], Any]]:
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    def made(kind: Any, structure: str) -> Callable[[], Any]:
        return lambda: kind(sparsity=0.5, mask_structure=structure, targets=["Linear"], ignore=IGNORED)

    return {
        "Wanda": made(WandaPruningModifier, "0:0"),
        "Wanda 2:4": made(WandaPruningModifier, "2:4"),
        "SparseGPT": made(SparseGPTModifier, "0:0"),
        "SparseGPT 2:4": made(SparseGPTModifier, "2:4"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_compressor", description="Beside llm-compressor.")
    parser.add_argument("--gguf", type=Path, help="GGUF file (default: that of the demo)")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=256)
    options = parser.parse_args(arguments)

    from trim_prune.integrations.llmcompressor import accelerate_llmcompressor
    from trim_prune.integrations.llmcompressor_modifier import TrimPruneModifier

    with tempfile.TemporaryDirectory() as place:
        gguf = options.gguf or find_model()
        setting = Setting(gguf, Path(place), options.blocks, options.samples, options.seqlen)
        theirs = {method: setting.run(make()) for method, make in _modifiers().items()}
        accelerate_llmcompressor()
        ours = {method: setting.run(make()) for method, make in _modifiers().items()}
        of_ours = setting.run(TrimPruneModifier(recipe={"preset": "wanda", "sparsity": 0.5}))
        alone = {name: _each_alone(setting, make()) for name, make in _modifiers().items() if "SparseGPT" in name}
    lines: list[tuple[str, ...]] = [HEADINGS]
    lines += [_line(method, theirs[method], found) for method, found in ours.items()]
    lines.append(_line("Wanda, TrimPruneModifier", theirs["Wanda"], of_ours))
    print(columns(lines))
    for method, compared in alone.items():
        print(f"{method}, each linear alone: {compared}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{torch.get_num_threads()} threads; load of the machine over 1, 5 and 15 minutes: {load}")


def _line(method: str, theirs: Outcome, ours: Outcome) -> tuple[str, ...]:
    agree = sum(int((ours.zeros[name] == zero).sum()) for name, zero in theirs.zeros.items())
    share = 100 * agree / sum(zero.numel() for zero in theirs.zeros.values())
    choosing = (
        f"{theirs.choosing:.2f}",
        *(("-", "-") if not ours.choosing else _ratio(theirs.choosing, ours.choosing)),
    )
    return method, f"{share:.4f}", *choosing, f"{theirs.whole:.1f}", *_ratio(theirs.whole, ours.whole)


def _ratio(theirs: float, ours: float) -> tuple[str, str]:
    return f"{ours:.2f}", f"{theirs / ours:.1f}"


if __name__ == "__main__":
    main()
