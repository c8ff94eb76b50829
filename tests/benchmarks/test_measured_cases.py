"""Every case runs, its check passes right results and no wrong ones, and a failure is told and not measured."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import kernels
from benchmarks import measure as measure_module
from benchmarks.cases import CASES, HEADLINES, checks
from benchmarks.figures import Figure, Missing
from benchmarks.limits import Limits
from benchmarks.measure import Bench, measure
from benchmarks.problems import Layer
from benchmarks.shapes import CPU_LINEARS, GPU_LINEARS, HEADLINE, Linear
from trim_kernels import native, pack_bits

SMALL = Linear("small", 48, 64)
BENCH = Bench("cpu", torch.float32, Limits(1e9, 1e9), budget=0.0)
BY_NAME = {case.name: case for case in CASES}
needs_library = pytest.mark.skipif(native.instruction_set() is None, reason="the native library is not built")


@pytest.mark.parametrize("name", BY_NAME)
def test_reference_and_baseline_agree_and_have_figures(name, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.BACKENDS", {"cpu": ("reference",)})
    monkeypatch.setattr("benchmarks.measure._peak_on_cpu", lambda *_: None)
    (figure,) = measure(BY_NAME[name], SMALL, BENCH)
    assert isinstance(figure, Figure), figure
    assert (figure.op, figure.backend, figure.times_reference) == (BY_NAME[name].op, "reference", 1.0)
    assert (figure.times_baseline is None) == (BY_NAME[name].baseline is None)
    assert 0 < figure.milliseconds_20 <= figure.milliseconds <= figure.milliseconds_80
    assert figure.percent_of_floor == pytest.approx(100 * figure.floor_milliseconds / figure.milliseconds)
    assert (figure.gigabytes_per_second is None) != (figure.teraflops is None)


@needs_library
def test_the_native_backend_is_compared_with_both():
    figures = {figure.backend: figure for figure in measure(BY_NAME["row_mask packed"], SMALL, BENCH)}
    assert set(figures) == {"cpu", "reference"}
    assert figures["cpu"].times_reference == pytest.approx(
        figures["reference"].milliseconds / figures["cpu"].milliseconds
    )


def test_a_wrong_result_is_told_and_has_no_figure():
    case = BY_NAME["row_mask bool"]
    wrong = replace(
        case, run=lambda layer, backend: ~case.run(layer, "reference") if backend == "cpu" else case.run(layer, backend)
    )
    found = {result.backend: result for result in measure(wrong, SMALL, BENCH)}
    assert isinstance(found["cpu"], Missing)
    assert found["cpu"].wrong
    assert isinstance(found["reference"], Figure)


def test_a_backend_that_cannot_run_is_missing_but_not_wrong():
    case = BY_NAME["row_mask bool"]

    def run(layer: Layer, backend: str) -> object:
        if backend == "cpu":
            raise ValueError("backend: 'cpu' cannot run row_mask: it rains\nsecond line")
        return case.run(layer, backend)

    found = {result.backend: result for result in measure(replace(case, run=run), SMALL, BENCH)}
    assert (found["cpu"].why, found["cpu"].wrong) == ("backend: 'cpu' cannot run row_mask: it rains", False)


@pytest.fixture
def gpu_of_cpu_memory(monkeypatch):
    """What the device path asks of torch.cuda, so that it runs on CPU tensors; nothing is captured."""

    class Event:
        def record(self) -> None:
            self.at = time.perf_counter()

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end) -> float:
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr("benchmarks.timing.device._event", Event)
    monkeypatch.setattr("benchmarks.timing.device.LONG", 1e9)
    monkeypatch.setattr("benchmarks.timing.device._capture", lambda work: None)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    properties = SimpleNamespace(L2_cache_size=25_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.parametrize("name", ["prune_rows_", "row_mask packed", "row_quality"])
def test_every_timed_call_finds_fresh_arguments_and_is_right(name, gpu_of_cpu_memory):
    case = BY_NAME[name]
    problem = case.problem(SMALL, torch.float32, "cpu")
    expected = case.run(problem.copy(), "reference")
    seen = []

    def call(own: Layer) -> object:
        seen.append((own.weight.data_ptr(), torch.equal(own.weight, problem.weight)))
        return case.run(own, "reference")

    def wrong(own: Layer) -> object:
        result = call(own)
        return result.fill_(0) if isinstance(result, torch.Tensor) else tuple(value * 2 for value in result)

    found = dict(measure_module._on_gpu(case, {"good": call, "wrong": wrong}, problem, expected, BENCH))
    assert found["good"].method == "events"
    assert isinstance(found["wrong"], AssertionError)
    assert all(fresh for _, fresh in seen)
    assert len({pointer for pointer, _ in seen}) == 11  # 5 x 25,000 bytes of 48 x 64 weights
    assert problem.weight.data_ptr() not in {pointer for pointer, _ in seen}


def test_the_floors_are_those_of_bytes_and_products():
    layer = Layer.make(Linear("", 5120, 64), torch.bfloat16, "cpu")
    weights = 5120 * 64
    expected = {
        "row_mask packed": 2.125,
        "row_mask bool": 3,
        "prune_rows_": 4,
        "row_order": 6,
        "nm_rank of 8": 3,
        "prune_nm_ 2 of 4": 4,
    }
    for name, bytes_of_a_weight in expected.items():
        assert BY_NAME[name].bytes_moved(layer) == bytes_of_a_weight * weights
    assert BY_NAME["row_quality"].operations(layer) == 2 * weights * 256


def test_gram_counts_half_of_a_product():
    problem = BY_NAME["gram_"].problem(Linear("", 128, 64), torch.bfloat16, "cpu")
    assert BY_NAME["gram_"].operations(problem) == 2 * 128 * 64 * 65 / 2
    assert BY_NAME["gram_"].bytes_moved(problem) == 128 * 64 * 2 + 8 * 64 * 65 / 2


def test_a_copy_shares_no_memory_and_can_be_restored():
    original = Layer.make(SMALL, torch.float32, "cpu")
    copy = original.copy()
    copy.weight.zero_()
    assert original.weight.any()
    copy.restore(original)
    assert torch.equal(copy.weight, original.weight)
    assert original.touched() == 4 * 48 * 64
    assert original.nbytes() == 4 * (48 * 64 + 64 * 256 + 64 + 48)


def test_checks_reject_what_is_wrong():
    mask = torch.tensor([[True, False] * 4])
    checks.equal_masks(mask, pack_bits(mask))
    with pytest.raises(AssertionError):
        checks.equal_masks(~mask, pack_bits(mask))
    gram = torch.tensor([[4.0, 0.0], [1.0, 9.0]])
    for position in ((0, 1), (1, 0), (1, 1)):
        wrong = gram.clone()
        wrong[position] += 1e-3
        with pytest.raises(AssertionError, match="off by"):
            checks.close_gram(wrong, gram)
    wrong[0, 0] = torch.nan
    with pytest.raises(AssertionError):
        checks.close_gram(wrong, gram)
    with pytest.raises(AssertionError):
        checks.close_sums(torch.tensor([1.00001]), torch.tensor([1.0]))
    with pytest.raises(AssertionError):
        checks.close_statistics((torch.tensor([torch.nan]),), (torch.tensor([1.0]),))


def test_shapes_are_there_once_and_the_headline_first():
    for linears in (CPU_LINEARS, GPU_LINEARS):
        assert len({(linear.rows, linear.columns) for linear in linears}) == len(linears)
    assert GPU_LINEARS[0] == HEADLINE
    assert set(HEADLINES) <= set(CASES)
    assert len(BY_NAME) == len(CASES)


def test_activations_are_measured_once_for_each_width():
    linears = kernels._linears(BY_NAME["gram_"], "cuda", headlines=False)
    assert [linear.columns for linear in linears] == [5120, 13824, 8192, 29568, 4096, 11008]
    assert {linear.rows for linear in linears} == {2048}


def test_the_command_writes_figures_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "CPU_LINEARS", (SMALL,))
    monkeypatch.setattr(Limits, "of_cpu", classmethod(lambda cls: Limits(1e9, 1e9)))
    command = ["--ops", "row_threshold", "--budget", "0.01", "--out", str(tmp_path / "results.json")]
    assert kernels.main([*command, "--shapes", f"{SMALL.rows}x{SMALL.columns}"]) == 0
    assert "row_threshold; baseline: torch.sort + gather" in capsys.readouterr().out
    assert kernels.main([*command, "--missing"]) == 0
    assert "baseline" not in capsys.readouterr().out


def test_unknown_operations_shapes_and_absent_devices_are_refused(capsys):
    with pytest.raises(SystemExit):
        kernels.main(["--ops", "row_msak"])
    assert "got row_msak" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        kernels.main(["--shapes", "576x576,1x1"])
    assert "got 1x1" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            kernels.main(["--device", "cuda"])
        assert "torch finds no GPU" in capsys.readouterr().err
