from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_requests import make_linear, make_request, random_linears
from tiny_models import make_model

from trim_prune import prune
from trim_prune.budgets.layers import alphapruning, exact_counts
from trim_prune.budgets.layers.spectrum import peak_exponent, spectrum
from trim_prune.cache import cache_file, extend_cache, read_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "trim-prune" / "alpha.json"


@pytest.fixture
def computed(monkeypatch):
    """The shapes of all matrices whose spectrum was computed."""
    shapes = []

    def counted(weight):
        shapes.append(tuple(weight.shape))
        return spectrum(weight)

    monkeypatch.setattr(alphapruning, "spectrum", counted)
    return shapes


def power_law(alpha, count, least=1.0):
    """Values at evenly spaced quantiles of the density x^-alpha above ``least``, ascending."""
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return least * (1 - quantiles) ** (-1 / (alpha - 1))


def matrix_with(eigenvalues, columns, seed=0, dtype=torch.float32):
    """A matrix [len(eigenvalues), columns] whose squared singular values are known."""
    generator = torch.Generator().manual_seed(seed)
    count = len(eigenvalues)
    left = torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, count, generator=generator, dtype=torch.float64))[0]
    return (left * eigenvalues.sqrt() @ right.t()).to(dtype)


def direct_exponent(eigenvalues, lower):
    """The estimator value by value, as it is written down; ``lower(peak)`` is the least x_min that it tries."""
    values = sorted(eigenvalues.tolist())
    logs = torch.tensor(values, dtype=torch.float64).log10()
    low, high = float(logs[0]), float(logs[-1])
    bins = torch.histc(logs, 100, min=low, max=high)
    peak = 10 ** torch.linspace(low, high, 101, dtype=torch.float64)[int(bins.argmax())].item()
    found = []
    for start, least in enumerate(values[:-1]):
        if lower(peak) <= least <= 1.5 * peak:
            tail = values[start:]
            alpha = 1 + len(tail) / sum(math.log(value / least) for value in tail)
            distance = max(
                abs(1 - (value / least) ** (1 - alpha) - place / len(tail)) for place, value in enumerate(tail)
            )
            found.append((distance, alpha))
    return min(found)[1]


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("least", [1e-4, 1.0, 1e4])
def test_the_exponent_of_a_power_law_is_found(alpha, least):
    assert peak_exponent(power_law(alpha, 2000, least)) == pytest.approx(alpha, rel=0.02)


@pytest.mark.parametrize(("rows", "columns"), [(60, 60), (40, 150), (150, 40), (200, 1100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_exponent_is_that_of_the_direct_loop(rows, columns, dtype):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)
    direct = direct_exponent(torch.linalg.svdvals(weight.double()).square(), lambda peak: 0.95 * peak)
    assert peak_exponent(spectrum(weight)) == pytest.approx(direct, rel=1e-9)


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=60, unique=True), st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_exponent_of_any_spectrum_is_that_of_the_direct_loop(values, factor):
    values = torch.tensor(values, dtype=torch.float64) * factor
    found = peak_exponent(values)
    if found is not None:
        assert found == pytest.approx(direct_exponent(values, lambda peak: 0.95 * peak), rel=1e-6)


def test_the_spectrum_is_that_of_the_singular_values():
    eigenvalues = power_law(2.0, 50)
    for weight in (matrix_with(eigenvalues, 90, dtype=torch.float64), matrix_with(eigenvalues, 90).t()):
        found = spectrum(weight)
        assert found.dtype == torch.float64
        assert torch.allclose(found, eigenvalues, rtol=1e-5)
    assert peak_exponent(spectrum(matrix_with(eigenvalues, 90))) == pytest.approx(peak_exponent(eigenvalues), rel=1e-3)


def test_a_multiple_of_a_weight_has_its_exponent_unlike_in_the_published_code():
    # The peak lies at 2, a hundred times above the least value: the published bound there is 0.28, or none at all.
    values = torch.cat([power_law(3.0, 300, 0.02), torch.linspace(2.0, 2.05, 40, dtype=torch.float64)])
    ours = [peak_exponent(values * factor) for factor in (1.0, 1 / 64)]
    published = [direct_exponent(values * factor, lambda peak: math.log10(0.95 * peak)) for factor in (1.0, 1 / 64)]
    assert ours[0] == pytest.approx(ours[1])
    assert ours[1] == pytest.approx(direct_exponent(values, lambda peak: 0.95 * peak))
    assert published[0] != pytest.approx(published[1], rel=0.01)


def test_directions_that_a_matrix_does_not_have_leave_its_exponent_as_it_is():
    eigenvalues = power_law(3.0, 40)
    weight = matrix_with(eigenvalues, 60, dtype=torch.float64)
    longer = torch.cat([weight, torch.zeros(15, 60, dtype=torch.float64), weight[:10] * 0])
    assert peak_exponent(spectrum(longer)) == pytest.approx(peak_exponent(spectrum(weight)))


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(4, 5), torch.ones(1, 9), torch.ones(9, 1), torch.ones(5, 5), 2 * torch.eye(6)],
    ids=["zeros", "one row", "one column", "rank one", "all equal"],
)
def test_a_spectrum_without_a_tail_has_no_exponent(weight):
    assert peak_exponent(spectrum(weight)) is None


def blocks_with(*alphas, count=60):
    return [
        make_linear(block, "a", matrix_with(power_law(alpha, count), count, seed=block))
        for block, alpha in enumerate(alphas)
    ]


def test_sparsities_are_the_published_map_of_the_block_means():
    linears = [*blocks_with(2.0, 4.0, 3.0), *random_linears([(7, 30), (5, 5)])]
    request = make_request(linears, sparsity=0.6, layers="alphapruning", alphapruning={"epsilon": 0.2})
    alphas = [peak_exponent(spectrum(linear.module.weight.detach())) for linear in linears]
    means = {0: (alphas[0] + alphas[3] + alphas[4]) / 3, 1: alphas[1], 2: alphas[2]}
    low, high = min(means.values()), max(means.values())
    ratios = [(means[linear.block] - low) / (high - low) * 0.4 + 0.8 for linear in linears]
    sizes = [linear.size for linear in linears]
    scaler = 0.6 * sum(sizes) / sum(ratio * size for ratio, size in zip(ratios, sizes, strict=True))
    found = alphapruning.alphapruning(request)
    assert found == pytest.approx([ratio * scaler for ratio in ratios])
    assert sum(s * n for s, n in zip(found, sizes, strict=True)) == pytest.approx(request.prune_count, abs=0.51)


def test_blocks_with_a_larger_exponent_lose_more():
    found = alphapruning.alphapruning(make_request(blocks_with(3.0, 2.0, 4.0), layers="alphapruning"))
    assert found[1] < found[0] < found[2]
    assert found[2] / found[1] == pytest.approx(1.3 / 0.7)


def test_linears_without_an_exponent_do_not_count():
    linears = [*blocks_with(2.0, 4.0), make_linear(1, "b", torch.zeros(3, 3)), make_linear(2, "a", torch.zeros(3, 3))]
    sparsities = alphapruning.alphapruning(make_request(linears, sparsity=0.5, layers="alphapruning"))
    assert sparsities[1] == sparsities[2]
    assert sparsities[3] == pytest.approx((sparsities[0] + sparsities[1]) / 2)


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_without_any_exponent_are_pruned_alike(blocks):
    linears = [make_linear(block, "a", torch.eye(4)) for block in range(blocks)]
    found = alphapruning.alphapruning(make_request(linears, layers="alphapruning", alphapruning={"epsilon": 1.0}))
    assert found == pytest.approx([0.7] * blocks)


def test_exponents_are_computed_once_for_the_same_bytes(cache, computed):
    linears = random_linears([(6, 9), (5, 5)], [(8, 4)])
    first = alphapruning.alphapruning(make_request(linears, layers="alphapruning"))
    assert len(computed) == 3
    assert len(json.loads(cache.read_text())) == 3
    again = alphapruning.alphapruning(make_request(linears, sparsity=0.5, layers="alphapruning"))
    assert len(computed) == 3
    assert again == pytest.approx([sparsity * 0.5 / 0.7 for sparsity in first])
    linears[1].module.weight.data[0, 0] += 1
    alphapruning.alphapruning(make_request(linears, layers="alphapruning"))
    assert computed[3:] == [(5, 5)]


def test_the_digest_knows_type_shape_and_version(monkeypatch):
    weight = torch.zeros(4, 6, dtype=torch.float16)
    digests = [
        alphapruning._digest(make_linear(0, "a", each))
        for each in (weight, weight.bfloat16(), weight.view(6, 4), weight.view(torch.int16).view(torch.float16))
    ]
    assert digests[0] == digests[3]
    monkeypatch.setattr(alphapruning, "VERSION", "another")
    digests.append(alphapruning._digest(make_linear(0, "a", weight)))
    assert len(set(digests)) == 4


def test_a_weight_that_is_not_contiguous_has_the_digest_of_its_values():
    weight = torch.randn(5, 8)
    assert alphapruning._digest(make_linear(0, "a", weight[:, ::2])) == alphapruning._digest(
        make_linear(0, "a", weight[:, ::2].contiguous())
    )


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", "3", '{"a": NaN}', "[" * 100_000, "\udc80", "BAD"], ids=lambda c: repr(c[:9])
)
def test_a_damaged_cache_is_computed_anew(content, cache, computed):
    linears = random_linears([(6, 9)], [(8, 4)])
    expected = alphapruning.alphapruning(make_request(linears, layers="alphapruning"))
    if content == "BAD":
        content = json.dumps(dict(zip(json.loads(cache.read_text()), ["x", math.inf], strict=True)))
    cache.write_bytes(content.encode(errors="surrogateescape"))
    assert alphapruning.alphapruning(make_request(linears, layers="alphapruning")) == expected
    assert len(computed) == 4
    assert alphapruning.alphapruning(make_request(linears, layers="alphapruning")) == expected
    assert len(computed) == 4


def test_a_cache_that_cannot_be_written_is_done_without(cache, computed):
    cache.parent.parent.joinpath("trim-prune").write_text("a file in the place of the folder")
    request = make_request(random_linears([(6, 9)], [(8, 4)]), layers="alphapruning")
    assert alphapruning.alphapruning(request) == alphapruning.alphapruning(request)
    assert len(computed) == 4


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    extend_cache("a.json", {"a": 1})
    assert read_cache("a.json") == {}


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    assert cache_file("a.json") == tmp_path / "trim-prune" / "a.json"
    monkeypatch.setenv("HOME", "/home/someone")
    for relative in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert str(cache_file("a.json")) == "/home/someone/.cache/trim-prune/a.json"


def test_entries_are_added_and_nothing_else_is_left(cache):
    extend_cache("alpha.json", {"a": 1.5})
    extend_cache("alpha.json", {"b": None})
    assert read_cache("alpha.json") == {"a": 1.5, "b": None}
    assert [path.name for path in cache.parent.iterdir()] == ["alpha.json"]


def test_a_model_is_pruned_to_the_weight_without_text():
    model = make_model("llama", num_hidden_layers=3)
    with torch.no_grad():
        for block, alpha in ((0, 4.0), (1, 2.0), (2, 3.0)):
            for linear in model.model.layers[block].modules():
                if isinstance(linear, torch.nn.Linear):
                    rows, columns = linear.weight.shape
                    wide = matrix_with(power_law(alpha, min(rows, columns)), max(rows, columns))
                    linear.weight.copy_(wide if rows <= columns else wide.t())
    recipe = {"sparsity": 0.6, "score": "magnitude", "rows": "uniform", "layers": "alphapruning"}
    result = prune(model, recipe)
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)
    first = {linear.block: linear.sparsity for linear in reversed(result.linears)}
    assert first[1] < first[2] < first[0]


def test_sparsities_beyond_one_are_held_back():
    request = make_request(blocks_with(3.0, 2.0, 4.0), sparsity=0.9, layers="alphapruning")
    sparsities = alphapruning.alphapruning(request)
    assert max(sparsities) > 1
    sizes = [linear.size for linear in request.linears]
    counts = exact_counts(sparsities, sizes, sizes, request.prune_count)
    assert sum(counts) == request.prune_count
    assert counts[2] == sizes[2]
