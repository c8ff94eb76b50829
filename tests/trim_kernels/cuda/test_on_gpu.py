"""The backends on a real GPU against the references on the same GPU; ``make gpu`` runs it. Skipped without a GPU."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import trim_kernels
from trim_kernels import machine, testing
from trim_kernels.ops.gram import panels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")]
SELECTIONS = {
    "row_threshold": testing.check_row_threshold,
    "row_mask": testing.check_row_mask,
    "prune_rows_": testing.check_prune_rows,
}
GROUPS = ((0, 1), (2, 4), (4, 8), (5, 12), (7, 32))
LARGE = {"152064 x 5120": (152_064, 5_120), "more than 2^31": (425_000, 5_120), "wide": (9, 300_000)}


@pytest.fixture(params=["cuda", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    status = machine.backends()[request.param]
    if not status["usable"]:
        pytest.skip(f"{request.param}: {status['why']}")
    return request.param


@pytest.fixture(params=LARGE)
def large(request: pytest.FixtureRequest) -> Iterator[Tensor]:
    """bfloat16, as large as a vocabulary, past 32-bit indices, or wider than one block can hold."""
    rows, columns = LARGE[request.param]
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * rows * columns:
        pytest.skip(f"{free >> 30} GiB of memory are free, {16 * rows * columns >> 30} are needed")
    yield torch.randn(rows, columns, dtype=torch.bfloat16, device="cuda", generator=generator())
    torch.cuda.empty_cache()  # other processes need the memory too


@contextlib.contextmanager
def skipped_where_refused(backend: str) -> Iterator[None]:
    """A backend may be unable to run a call if it says so."""
    try:
        yield
    except ValueError as error:
        if f"{backend!r} cannot run" not in str(error):
            raise
        pytest.skip(str(error))


def generator(seed: int = 0, device: str = "cuda") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def on_gpu(tensor: Tensor, device: str = "cuda") -> Tensor:
    """The tensor in the same layout, with the memory around it."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return memory.to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def layer(rows: int = 96, columns: int = 1024, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, inputs and column scale on the GPU, weight and inputs in this dtype."""
    weight, inputs, scale = testing.heavy_tailed(rows, columns, 64)
    return weight.to("cuda", dtype), inputs.to("cuda", dtype), scale.cuda()


def mixed_counts(rows: int, columns: int) -> Tensor:
    return torch.randint(0, columns + 1, (rows,), dtype=torch.int32, device="cuda", generator=generator(1))


def slices(rows: int) -> list[slice]:
    """The first rows, some of the middle and the last."""
    return [slice(start, min(start + 64, rows)) for start in (0, rows // 2, max(0, rows - 64))]


def call_large(op: str, backend: str, weight: Tensor, counts: Tensor, scale: Tensor) -> Callable[[slice], Tensor]:
    """Run the operation on some rows."""
    options = {"column_scale": scale, "backend": backend}

    def run(rows: slice) -> Tensor:
        if op == "row_threshold":
            return torch.stack(trim_kernels.row_threshold(weight[rows], counts[rows], **options), dim=1)
        if op in ("row_mask", "row_mask packed"):
            return trim_kernels.row_mask(weight[rows], counts[rows], packed=op.endswith("packed"), **options)
        if op == "prune_rows_":
            return trim_kernels.prune_rows_(weight[rows].clone(), counts[rows], **options)
        if op == "row_order":
            return trim_kernels.row_order(weight[rows], **options)
        if op == "nm_rank":
            return trim_kernels.nm_rank(weight[rows], 8, **options)
        if op == "nm_mask":
            return trim_kernels.nm_mask(weight[rows], 2, 4, packed=True, **options)
        return trim_kernels.prune_nm_(weight[rows].clone(), 2, 4, **options)

    return run


@pytest.mark.parametrize(
    "op",
    ["row_threshold", "row_mask", "row_mask packed", "prune_rows_", "row_order", "nm_rank", "nm_mask", "prune_nm_"],
)
def test_large_matrices_are_right_in_slices(op, large, backend):
    rows, columns = large.shape
    counts = mixed_counts(rows, columns)
    scale = torch.rand(columns, device="cuda", generator=generator(2))
    with skipped_where_refused(backend):
        got = call_large(op, backend, large, counts, scale)(slice(None))
    expected = call_large(op, "reference", large, counts, scale)
    for some in slices(rows):
        assert torch.equal(got[some], expected(some)), f"rows {some.start} to {some.stop} differ"


def test_quality_of_large_matrices_is_right_in_slices(large, backend):
    rows, columns = large.shape
    counts = mixed_counts(rows, columns)
    inputs = torch.randn(columns, 64, dtype=torch.bfloat16, device="cuda", generator=generator(2))
    with skipped_where_refused(backend):
        got = trim_kernels.row_quality(large, counts, inputs, backend=backend)
    for some in slices(rows):
        expected = trim_kernels.row_quality(large[some], counts[some], inputs, backend="reference")
        for name in ("dense_sq", "dropped_sq", "cross", "peak"):
            error = (getattr(got, name)[some] - getattr(expected, name)).abs() / expected.dense_sq
            assert error.max() <= 1e-4, f"{name} of the rows {some.start} to {some.stop}"


def test_sums_over_many_tokens(large, backend):
    columns = large.shape[1]
    acc = torch.zeros(columns, device="cuda")
    trim_kernels.column_sqnorm_(acc, large, backend=backend)
    truth = sum(part.double().square().sum(0) for part in large.split(4096))
    torch.testing.assert_close(acc.double(), truth, rtol=1e-6, atol=0)
    if columns > 16_384:
        return  # their Gram matrix would not fit
    gram = torch.zeros(columns, columns, device="cuda")
    trim_kernels.gram_(gram, large, backend=backend)
    corner = sum(part[:, -64:].double().t() @ part[:, :64].double() for part in large.split(16_384))
    allowed = 1e-3 * truth[-64:, None].sqrt() * truth[:64].sqrt()
    assert ((gram[-64:, :64] - corner).abs() <= allowed).all()
    assert not gram.triu(1).any()


WIDTHS = [1, 2048, 5120, 8960, 13_824, 16_896, 16_904, 18_944, 22_016, 24_568, 29_568, 32_768, 107_600]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("columns", WIDTHS)
def test_widths(columns, dtype, backend):
    """Each way to hold a row, the shared memory that needs permission included."""
    # Of few long rows each would be shared by many blocks.
    rows = 3 if columns < 65_536 else torch.cuda.get_device_properties(0).multi_processor_count
    weight = torch.randn(rows, columns, device="cuda", generator=generator(columns)).to(testing.DTYPES[dtype])
    scale = torch.rand(columns, device="cuda", generator=generator(1))
    counts = mixed_counts(rows, columns)
    counts[:3] = torch.tensor([0, columns // 2, columns], dtype=torch.int32)
    for check in SELECTIONS.values():
        check(backend, weight, counts, column_scale=scale)
    with skipped_where_refused(backend):
        testing.check_row_order(backend, weight, column_scale=scale)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 65_536), (3, 100_001), (1, 3_000_007)])
def test_few_long_rows(rows, columns, dtype, backend):
    weight = torch.randn(rows, columns, device="cuda", generator=generator(columns)).to(testing.DTYPES[dtype])
    scale = torch.rand(columns, device="cuda", generator=generator(1))
    counts = mixed_counts(rows, columns)
    for check in SELECTIONS.values():
        check(backend, weight, counts, column_scale=scale)
        check(backend, weight[:0], counts[:0], column_scale=scale)
    testing.check_row_mask(backend, weight.mul(4).round(), counts)


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_nasty_matrices(matrix, dtype, backend, case):
    # Triton compiles anew for every way to lie in memory: two of them are enough.
    layouts = ("contiguous", "column_strided") if backend == "triton" else testing.LAYOUTS
    for layout, scoring in itertools.product(layouts, testing.SCORINGS):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        counts = testing.mixed_counts(weight).cuda()
        scores = {name: on_gpu(tensor) for name, tensor in testing.SCORINGS[scoring](weight).items()}
        weight = on_gpu(weight)
        for op, check in SELECTIONS.items():
            with case(op=op, layout=layout, scoring=scoring):
                check(backend, weight, counts, **scores)
        with case(op="row_order", layout=layout, scoring=scoring):
            testing.check_row_order(backend, weight, **scores)
        for keep, of in GROUPS[1:3] if layout != "contiguous" else GROUPS:
            with case(op="nm", keep=keep, of=of, layout=layout, scoring=scoring):
                testing.check_nm_rank(backend, weight, of, **scores)
                testing.check_nm_mask(backend, weight, keep, of, **scores)
                testing.check_prune_nm(backend, weight, keep, of, **scores)


@pytest.mark.parametrize("scoring", testing.SCORINGS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(1, 1, 1), (5, 67, 9), (130, 257, 70), (256, 1024, 256)])
def test_quality(rows, columns, tokens, dtype, scoring, backend):
    weight, inputs, _ = testing.heavy_tailed(rows, columns, tokens)
    weight, inputs = weight.to(testing.DTYPES[dtype]), inputs.to(testing.DTYPES[dtype])
    scores = {name: tensor.cuda() for name, tensor in testing.SCORINGS[scoring](weight).items()}
    counts = testing.mixed_counts(weight).cuda()
    testing.check_row_quality(backend, weight.cuda(), counts, inputs.cuda(), **scores)


@pytest.mark.parametrize("rounding", ["floor", "exact"])
@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_budgets(dtype, rounding, backend):
    weight, inputs, scale = layer(dtype=testing.DTYPES[dtype])
    with skipped_where_refused(backend):
        testing.check_allocate_rows(backend, weight, inputs, 0.6, column_scale=scale, rounding=rounding)


def test_searches_of_different_shapes_follow_each_other(backend):
    for shape in ((96, 512), (200, 300), (96, 512)):
        weight, inputs, scale = layer(*shape)
        testing.check_allocate_rows(backend, weight, inputs, 0.6, column_scale=scale, iterations=3)


def test_a_search_on_another_stream(backend):
    weight, inputs, scale = layer()
    expected = trim_kernels.allocate_rows(weight, inputs, 0.6, column_scale=scale, backend=backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = trim_kernels.allocate_rows(weight, inputs, 0.6, column_scale=scale, backend=backend)
    stream.synchronize()
    assert torch.equal(got.prune_count, expected.prune_count)
    assert got.trace == expected.trace


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "token mask"])
@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize(("tokens", "columns"), [(1, 1), (37, 70), (300, 257), (512, 384)])
def test_sums_of_tokens(tokens, columns, dtype, layout, masked, backend):
    values = torch.randn(tokens, columns, generator=generator(device="cpu")).to(testing.DTYPES[dtype])
    x = on_gpu(testing.LAYOUTS[layout](values))
    mask = torch.rand(tokens, device="cuda", generator=generator(1)) < 0.7 if masked else None
    for accumulator in (torch.float32, torch.float64):
        acc = torch.rand(columns, dtype=accumulator, device="cuda", generator=generator(2))
        testing.check_column_sqnorm(backend, acc, x, mask)
    testing.check_gram(backend, torch.randn(columns, columns, device="cuda", generator=generator(3)), x, mask)


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_gram_of_more_columns_and_tokens_than_are_multiplied_at_once(dtype, backend):
    x = torch.randn(panels.TOKENS + 900, 2 * panels.NARROWEST + 50, device="cuda", generator=generator())
    testing.check_gram(backend, torch.zeros(x.shape[1], x.shape[1], device="cuda"), x.to(testing.DTYPES[dtype]))


@pytest.mark.parametrize("op", ["row_threshold", "row_mask", "row_order", "row_quality", "nm_rank", "nm_mask"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bad_values_are_errors(bad, op, backend):
    weight, inputs, scale = layer()
    weight[-1, -1] = bad
    arguments = {"row_quality": (300, inputs), "nm_mask": (2, 4), "nm_rank": (4,), "row_order": ()}.get(op, (300,))
    with pytest.raises(ValueError, match="weight: expected finite values"):
        getattr(trim_kernels, op)(weight, *arguments, column_scale=scale, backend=backend)


@pytest.mark.parametrize(("op", "arguments"), [("prune_rows_", (300,)), ("prune_nm_", (2, 4))])
def test_a_weight_with_a_bad_value_is_left_as_it_was(op, arguments, backend):
    weight, _, scale = layer()
    weight[5, 7] = torch.nan
    before = weight.clone()
    with pytest.raises(ValueError, match=r"weight: expected finite values, got nan at \[5, 7\]"):
        getattr(trim_kernels, op)(weight, *arguments, column_scale=scale, backend=backend)
    assert torch.equal(weight.view(torch.int16), before.view(torch.int16))


def test_counts_out_of_range_are_errors(backend):
    weight, _, _ = layer()
    counts = mixed_counts(*weight.shape)
    counts[3] = weight.shape[1] + 1
    with pytest.raises(ValueError, match="prune_count: expected values from 0 to 1024, got 1025 at row 3"):
        trim_kernels.row_mask(weight, counts, backend=backend)


def test_unchecked_bad_values_leave_memory_safe(backend):
    weight, _, _ = layer()
    weight[::2] = torch.nan
    counts = mixed_counts(*weight.shape)
    counts[0], counts[1] = -1, 2**31 - 1
    good = slice(3, None, 2)
    expected = trim_kernels.row_mask(weight[good], counts[good], backend="reference")
    mask = trim_kernels.row_mask(weight, counts, check_values=False, backend=backend)
    assert torch.equal(mask[good], expected)


def test_two_runs_give_the_same_bits(backend):
    weight, inputs, scale = layer(512, 2048)
    counts = mixed_counts(*weight.shape)

    def run() -> list[Tensor]:
        quality = trim_kernels.row_quality(weight, counts, inputs, column_scale=scale, backend=backend)
        sums, gram = torch.zeros(2048, device="cuda"), torch.zeros(2048, 2048, device="cuda")
        trim_kernels.column_sqnorm_(sums, weight, backend=backend)
        trim_kernels.gram_(gram, weight, backend=backend)
        return [quality.dense_sq, quality.dropped_sq, quality.cross, quality.peak, sums, gram]

    assert all(itertools.starmap(torch.equal, zip(run(), run(), strict=True)))


@pytest.mark.parametrize("long", [False, True], ids=["rows", "one long row"])
def test_a_captured_mask_follows_its_weight(long, backend):
    weight, _, scale = layer()
    if long:
        weight, scale = weight.repeat(1, 3).view(1, -1), scale.repeat(3 * len(weight))
    counts = mixed_counts(*weight.shape)

    def mask(backend: str) -> Tensor:
        return trim_kernels.row_mask(weight, counts, column_scale=scale, check_values=False, backend=backend)

    mask(backend)  # compiles and loads, which cannot be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = mask(backend)
    for seed in range(2):
        weight.copy_(torch.randn(weight.shape, device="cuda", generator=generator(seed)))
        graph.replay()
        assert torch.equal(captured, mask("reference"))


def test_everything_in_place_can_be_captured(backend):
    weight, _, scale = layer(512, 1024)
    counts = mixed_counts(*weight.shape)
    options = {"column_scale": scale, "check_values": False, "backend": backend}
    acc, gram = torch.zeros(1024, device="cuda"), torch.zeros(1024, 1024, device="cuda")

    def work() -> None:
        trim_kernels.prune_nm_(weight, 2, 4, **options)
        trim_kernels.prune_rows_(weight, counts, **options)
        trim_kernels.column_sqnorm_(acc, weight, backend=backend)
        trim_kernels.gram_(gram, weight, backend=backend)

    before = weight.clone()
    work()
    expected = [weight.clone(), acc.clone(), gram.clone()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    weight.copy_(before)
    for accumulator in (acc, gram):
        accumulator.zero_()
    graph.replay()
    assert all(itertools.starmap(torch.equal, zip((weight, acc, gram), expected, strict=True)))


def test_work_is_queued_on_the_current_stream(backend):
    final, _, scale = layer(256, 4096)
    counts = mixed_counts(*final.shape)
    expected = trim_kernels.row_mask(final, counts, column_scale=scale, backend="reference")
    weight = torch.zeros_like(final)
    trim_kernels.row_mask(weight, counts, column_scale=scale, check_values=False, backend=backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        weight.copy_(final)  # another stream would be done before this
        got = trim_kernels.row_mask(weight, counts, column_scale=scale, check_values=False, backend=backend)
    stream.synchronize()
    assert torch.equal(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_a_device_that_is_not_the_current_one(backend, case):
    weight, inputs, scale = (tensor.to("cuda:1") for tensor in layer())
    counts = mixed_counts(*weight.shape).to("cuda:1")
    for op, check in SELECTIONS.items():
        with case(op=op):
            check(backend, weight, counts, column_scale=scale)
    testing.check_row_quality(backend, weight, counts, inputs, column_scale=scale)
    testing.check_prune_nm(backend, weight, 2, 4, column_scale=scale)
    assert torch.cuda.current_device() == 0
