"""Zero-shot tasks by the released harness, on local files; skipped where it is not installed."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
import torch
from tiny_models import make_model

from trim_prune import TrimPruneError, prune
from trim_prune.evaluation import zero_shot as module
from trim_prune.evaluation.zero_shot import local_files, zero_shot

harness = pytest.mark.skipif(module.find_spec("lm_eval") is None, reason="no lm-eval: pip install 'trim-kernels[eval]'")
# Of the packages that the harness imports.
pytestmark = pytest.mark.filterwarnings("ignore")

DOCUMENTS = [
    {"goal": "boil water", "sol1": "heat it", "sol2": "freeze it", "label": 0},
    {"goal": "cut bread", "sol1": "use a spoon", "sol2": "use a knife", "label": 1},
    {"goal": "dry a towel", "sol1": "hang it in the sun", "sol2": "hang it in a pool", "label": 0},
    {"goal": "see at night", "sol1": "close the eyes", "sol2": "light a lamp", "label": 1},
]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "tasks"
    (folder / "piqa").mkdir(parents=True)
    lines = "".join(json.dumps(document) + "\n" for document in DOCUMENTS)
    (folder / "piqa" / "validation.jsonl").write_text(lines)
    return folder


@torch.no_grad()
def accuracy(model, tokenizer, documents):
    """The share of questions whose right answer the model finds likelier than the other."""
    right = 0
    for document in documents:
        likelihoods = []
        for answer in (document["sol1"], document["sol2"]):
            before = tokenizer(f"Question: {document['goal']}\nAnswer:")["input_ids"]
            whole = tokenizer(f"Question: {document['goal']}\nAnswer: {answer}")["input_ids"]
            logits = model(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
            places = range(len(before), len(whole))
            likelihoods.append(math.fsum(float(logits[place - 1, whole[place]]) for place in places))
        right += likelihoods.index(max(likelihoods)) == document["label"]
    return right / len(documents)


@harness
@pytest.mark.parametrize("limit", [None, 3])
def test_the_accuracy_is_that_of_the_likelier_answers(limit, data, tokenizer):
    model, calls = make_model("llama", max_position_embeddings=128), []
    found = zero_shot(model, tokenizer, ["piqa"], data=data, limit=limit, on_request=lambda *done: calls.append(done))
    protocol, results = found["piqa"]
    count = limit or 4
    assert results["acc"] == pytest.approx(accuracy(model, tokenizer, DOCUMENTS[:count]))
    assert (protocol["task"], protocol["split"], protocol["examples"]) == ("piqa", "validation", count)
    assert (protocol["shots"], protocol["first_only"], protocol["dtype"]) == (0, limit, "float32")
    assert protocol["harness"].startswith("lm-eval 0.")
    assert calls[-1] == (2 * count, 2 * count)


@harness
def test_results_are_kept_and_printed(data, llama_folder, tmp_path, invoke):
    out = tmp_path / "out"
    prune(llama_folder, {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"}, out=out)
    options = ["--tasks", "piqa", "--task-data", data, "--limit", 2]
    code, printed, errors = invoke("evaluate", out, *options)
    assert code == 0, errors
    assert "Zero-shot: piqa" in printed
    assert "acc_norm" in printed
    (entry,) = json.loads((out / "run.json").read_text())["evaluations"]
    assert (entry["kind"], entry["of"], entry["protocol"]["examples"]) == ("task", "pruned", 2)
    assert 0 <= entry["results"]["acc"] <= 1


@harness
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("piqqa", r"unknown task 'piqqa'(.|\n)*did you mean 'piqa'"),
        ("mmlu", r"unknown task 'mmlu'(.|\n)*a group of tasks"),
        ("piqa,hellaswag", r"no data of task 'hellaswag'(.|\n)*validation.jsonl"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_model_is_loaded(tasks, message, data, invoke):
    code, printed, errors = invoke("evaluate", "no-such-model", "--tasks", tasks, "--task-data", data)
    assert (code, printed) == (2, "")
    assert re.search(message, errors)


@harness
def test_data_that_a_task_cannot_read_is_explained(data, tokenizer):
    (data / "piqa" / "validation.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(TrimPruneError, match=r"the harness cannot run these tasks(.|\n)*piqa"):
        zero_shot(make_model("llama"), tokenizer, ["piqa"], data=data)


def test_without_the_harness_the_command_says_how_to_get_it(invoke, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    code, _, errors = invoke("evaluate", "no-such-model", "--tasks", "piqa")
    assert code == 2
    assert "pip install 'trim-kernels[eval]'" in errors


def test_files_are_found_by_split_in_their_name_or_folder(tmp_path):
    for name in (
        "a/validation.jsonl",
        "a/train-00000-of-00002.parquet",
        "b/plain/test/data-00000.arrow",
        "b/dataset_info.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {split: [file.rpartition("/")[2] for file in files] for split, files in local_files(tmp_path, "a").items()}
    assert found == {"validation": ["validation.jsonl"], "train": ["train-00000-of-00002.parquet"]}
    assert list(local_files(tmp_path, "b")) == ["test"]
    shutil.rmtree(tmp_path / "b" / "plain")
    with pytest.raises(TrimPruneError, match="no data of task 'b'"):
        local_files(tmp_path, "b")
