"""What several processes gain: python -m benchmarks.ranks.

A random model with the shapes of SmolLM2-135M is pruned in memory by 1, 2 and 4 ranks of one thread each, over gloo.
From the run of one the model of ``benchmarks.scaling`` says what the others should move, to the byte, and take; then
what it says of large models on GPUs, which is not measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.about import about
from benchmarks.scaling import Case, operations, predicted, shares, volume
from benchmarks.tables import columns
from trim_prune.demo import split_topics

RANKS = (1, 2, 4)
SEQUENCES, SEQLEN = 32, 128
HIDDEN, INNER, KEYS = 576, 1536, 192
METHODS: dict[str, dict[str, Any]] = {
    "wanda + trim": {"score": "wanda", "rows": "trim"},
    "sparsegpt": {"score": "obs", "rows": "uniform", "solver": "sparsegpt"},
}
CASES = {
    name: Case(
        name, HIDDEN, INNER, KEYS, SEQUENCES, SEQLEN, 4, gram=name == "sparsegpt", solved=name == "sparsegpt",
        searched=0 if name == "sparsegpt" else SEQUENCES, kept=False,
    )
    for name in METHODS
}  # fmt: skip
LARGE = [
    Case(f"{name}, {method}", *shape, 256, 2048, 2, gram=gram, solved=gram, searched=0 if gram else 256)
    for name, shape in {
        "Qwen2.5-14B": (5120, 13824, 1024),
        "LLaMA-2-13B": (5120, 13824, 5120),
        "Qwen2.5-72B": (8192, 29568, 1024),
    }.items()
    for method, gram in (("wanda + trim", False), ("sparsegpt", True))
]
RATES = {"forward": 400e12, "statistics": 100e12, "measure": 40e12, "solve": 40e12, "factor": 20e12}
"""Assumed of an H200, operations per second: bfloat16 in forwards, full float32 in the others."""
LINKS = {"NVLink": 300e9, "100 Gbit/s": 10e9}
"""Assumed bytes per second that arrive at each rank."""


def main(
    blocks: Annotated[int, typer.Option(help="Blocks of the random model.")] = 2,
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path(__file__).parent / "results" / "ranks-cpu.json",
) -> None:
    """Measure runs of 1, 2 and 4 ranks, and compare the model of what they gain."""
    cores = len(os.sched_getaffinity(0))
    content: dict[str, Any] = {
        "machine": about("cpu") | {"threads": 1, "cores": cores, "load": os.getloadavg()},
        "note": "one thread a rank, on cores that other work may share (load: processes that wanted one in the last "
        "1, 5 and 15 minutes): seconds are good for an order of size, bytes are exact",
        "model": {"hidden": HIDDEN, "inner": INNER, "keys": KEYS, "blocks": blocks},
        "text": {"sequences": SEQUENCES, "seqlen": SEQLEN},
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as place:
        folder, text = _model(Path(place) / "model", blocks), Path(place) / "text.txt"
        text.write_text("\n".join(split_topics()[0]), encoding="utf-8")
        for method, recipe in METHODS.items():
            alone: dict[str, float] = {}
            for ranks in RANKS:
                run = _measured(folder, text, recipe, ranks, Path(place))
                alone = alone or run["seconds"]
                content["runs"].append(_compared(CASES[method], ranks, run, alone, cores, blocks))
                out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(_table(content["runs"]))
    content["large"] = [_large(case, ranks) for case in LARGE for ranks in (1, 2, 4, 8)]
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nnot measured, per block, at assumed rates of an H200:\n{_large_table(content['large'])}")
    print(f"written to {out}")


def _model(folder: Path, blocks: int) -> Path:
    """A random model with a tokenizer of bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def _measured(folder: Path, text: Path, recipe: dict[str, Any], ranks: int, place: Path) -> dict[str, Any]:
    """What the first rank of a run tells."""
    values = {"sparsity": 0.5, "samples": SEQUENCES, "seqlen": SEQLEN, "device": "cpu", **recipe}
    worker, file = Path(__file__).with_name("rank_worker.py"), place / "run.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    arguments = [str(worker), str(folder), str(text), json.dumps(values), str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, *arguments], check=True, env=environment)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _compared(
    case: Case, ranks: int, run: dict[str, Any], alone: dict[str, float], cores: int, blocks: int
) -> dict[str, Any]:
    """A run beside what the model says of it."""
    moved = sum(sum(of_rank.values()) for of_rank in run["bytes"])
    wanted = predicted(alone, case, ranks, cores, blocks, run["bytes_per_second"] or 1.0)
    return {
        "method": case.name,
        "ranks": ranks,
        "seconds": run["seconds"],
        "seconds_predicted": {phase: round(seconds, 3) for phase, seconds in wanted.items()},
        "bytes_per_block": moved // blocks,
        "bytes_per_block_predicted": volume(case, ranks),
        "bytes_per_second": run["bytes_per_second"],
    }


def _whole(seconds: dict[str, float]) -> float:
    """Without what comes before the walk over the blocks."""
    return sum(time for phase, time in seconds.items() if phase != "load")


def _table(runs: list[dict[str, Any]]) -> str:
    lines = [("method", "ranks", "seconds", "predicted", "times", "predicted", "bytes a block", "predicted")]
    first: dict[str, dict[str, Any]] = {}
    for run in runs:
        alone = first.setdefault(run["method"], run)
        seconds, wanted = _whole(run["seconds"]), _whole(run["seconds_predicted"])
        base = _whole(alone["seconds"])
        times = (f"{seconds:.1f}", f"{wanted:.1f}", f"{base / seconds:.2f}", f"{base / wanted:.2f}")
        moved = (str(run["bytes_per_block"]), str(sum(run["bytes_per_block_predicted"].values())))
        lines.append((run["method"], str(run["ranks"]), *times, *moved))
    return columns(lines)


def _large(case: Case, ranks: int) -> dict[str, Any]:
    """What the model says of a block of a large model."""
    left, work = shares(case, ranks), operations(case)
    compute = sum(amount * left[part] / RATES[part] for part, amount in work.items())
    arriving = sum(volume(case, ranks).values()) / ranks
    seconds = {link: compute + arriving / rate for link, rate in LINKS.items()}
    return {"case": case.name, "ranks": ranks, "bytes": round(arriving), "compute": compute, "seconds": seconds}


def _large_table(cases: list[dict[str, Any]]) -> str:
    lines = [("case", "ranks", "MB to each", "compute ms", *(f"{link} ms" for link in LINKS), "times faster")]
    alone: dict[str, float] = {}
    for case in cases:
        base = alone.setdefault(case["case"], case["compute"])
        times = [1e3 * seconds for seconds in case["seconds"].values()]
        gains = " to ".join(f"{base / seconds:.1f}" for seconds in sorted(case["seconds"].values(), reverse=True))
        moved, compute = f"{case['bytes'] / 1e6:.0f}", f"{1e3 * case['compute']:.0f}"
        lines.append((case["case"], str(case["ranks"]), moved, compute, *(f"{time:.0f}" for time in times), gains))
    return columns(lines)


if __name__ == "__main__":
    typer.run(main)
