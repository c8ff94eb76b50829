"""The shim that runs CUDA sources on the CPU: right kernels give right results, wrong ones are found out."""

from __future__ import annotations

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cuda_on_cpu.build import ROOT, build
from torch import Tensor

FOLDER = ROOT / "tests" / "cuda_on_cpu"
LAUNCH_FAILURE = 719
SEEDS = range(20)
NO_WAIT, NO_FENCE, NO_PROXY_FENCE, NO_BARRIER, OVERWRITE, OTHER_DESCRIPTOR, TOUCHED = range(1, 8)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the shim needs g++")


class Library:
    """The C functions of self_test.cu; tensors go in as their addresses."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.self_test_error.restype = ctypes.c_char_p
        self._library.cuda_on_cpu_report.restype = ctypes.c_char_p

    def __getattr__(self, name: str):
        function = getattr(self._library, f"self_test_{name}")

        def call(*arguments: Tensor | int) -> int:
            return function(*(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments))

        return call

    def seed(self, seed: int) -> None:
        self._library.cuda_on_cpu_seed(ctypes.c_uint32(seed))

    def report(self) -> str:
        return self._library.cuda_on_cpu_report().decode()


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build([FOLDER / "self_test.cu"], ROOT / "build" / "cuda_on_cpu" / "libself_test.so"))


def random_values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_barriers_and_shared_memory_under_many_seeds(library, case):
    value = torch.arange(6 * 256, dtype=torch.int32)
    expected = value.view(6, 256).sum(1, keepdim=True).expand(6, 256)
    for seed in SEEDS:
        library.seed(seed)
        total = torch.zeros(6, 256, dtype=torch.int32)
        with case(seed=seed):
            assert library.sum(value, total, 6, 1) == 0
            assert torch.equal(total, expected.int())


def test_launches_of_two_threads_take_turns(library):
    value = torch.arange(6 * 256, dtype=torch.int32)
    totals = [torch.zeros(6, 256, dtype=torch.int32) for _ in range(20)]
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda total: library.sum(value, total, 6, 1), totals)) == 0
    for total in totals:
        assert torch.equal(total, value.view(6, 256).sum(1, keepdim=True).expand(6, 256).int())


def test_missing_barrier_shows(library):
    value = torch.ones(2 * 256, dtype=torch.int32)
    wrong = 0
    for seed in SEEDS:
        library.seed(seed)
        total = torch.zeros(2, 256, dtype=torch.int32)
        wrong += library.sum(value, total, 2, 0) != 0 or not (total == 256).all()
    assert wrong == len(SEEDS)


def test_same_seed_same_schedule(library):
    value = torch.ones(2 * 256, dtype=torch.int32)

    def racing(seed: int) -> Tensor:
        total = torch.zeros(2, 256, dtype=torch.int32)
        library.seed(seed)
        library.sum(value, total, 2, 0)
        return total

    assert torch.equal(racing(3), racing(3))
    assert not torch.equal(racing(3), racing(4))


def test_warp_operations(library, case):
    value = [(3 * lane + 1) % 7 for lane in range(32)]
    ballot = sum(1 << lane for lane in range(32) if value[lane] > 3)
    odd = [value[lane] & 1 for lane in range(32)]
    low = sum(odd[lane] << lane for lane in range(7))
    expected = {
        "shfl": [value[5]] * 32,
        "shfl in eights": [value[lane // 8 * 8 + (lane + 1) % 8] for lane in range(32)],
        "up": [value[lane - 3 if lane >= 3 else lane] for lane in range(32)],
        "down in sixteens": [value[lane + 3 if lane % 16 < 13 else lane] for lane in range(32)],
        "xor of 64 bits": [value[lane ^ 9] << 33 for lane in range(32)],
        "ballot": [ballot] * 32,
        "any": [1] * 32,
        "all": [1] * 32,
        "match": [sum(1 << other for other in range(32) if value[other] == v) for v in value],
        "add": [sum(value)] * 32,
        "min": [0] * 32,
        "max": [6] * 32,
        "count": [ballot.bit_count()] * 32,
        "or": [1] * 32,
        "and": [1] * 32,
        "two masks": [low if lane < 7 else sum(odd[i] << i for i in range(7, 32)) for lane in range(32)],
    }
    for seed in SEEDS:
        library.seed(seed)
        out = torch.zeros(16, 32, dtype=torch.int64)
        assert library.warp(torch.tensor(value, dtype=torch.int32), out) == 0
        for row, (operation, lanes) in zip(out.tolist(), expected.items(), strict=True):
            with case(seed=seed, operation=operation):
                assert row == lanes


def test_bits_and_arithmetic(library):
    x, y = 0x12345678, 0x00ABCDEF
    out = torch.zeros(13, dtype=torch.int32)
    assert library.bits(x, y, out) == 0
    expected = [13, 8, 1, 0x1E6A2C48, 0xF1234567, 0xABCDEF1, 0x00785600 | 0xEF, 0x78787800, x, x, 5]
    expected[6] = int.from_bytes(bytes([0x56, 0xEF, 0x78, 0x00]), "little")
    expected[7] = int.from_bytes(bytes([0x00, 0x78, 0x78, 0x00]), "little")
    # 2^-22 + 2^-46 keeps its last bit only without a rounding in between; 2^-140 is subnormal.
    expected += [torch.tensor(2.0**-22 + 2.0**-46).view(torch.int32).item(), 1 << 9]
    assert [value & 0xFFFFFFFF for value in out.tolist()] == expected


def test_subnormal_numbers_stay_although_the_process_flushes_them(library):
    out = torch.zeros(13, dtype=torch.int32)
    torch.set_flush_denormal(True)
    try:
        assert library.bits(1, 1, out) == 0
    finally:
        torch.set_flush_denormal(False)
    assert out[12] == 1 << 9


def test_atomics(library):
    number, largest = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    total, flags = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    assert library.count(100, number, total, largest, flags) == 0
    assert number == 5 * 64 * 100
    assert total == 5 * 64 * 50
    assert largest == 5 * 64 - 1
    assert flags == -1


def test_shared_memory_of_every_block_is_poisoned(library):
    fresh = torch.zeros(1, dtype=torch.int32)
    assert library.poison(fresh) == 0
    assert fresh == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (0, ["has exited and is missed at __syncthreads", "40 at __syncthreads", "threads 0-39", "24 exited"]),
        (1, ["deadlock", "16 at __shfl_sync with mask ffffffff, self_test.cu:", "48 at __syncthreads", "threads 0-15"]),
        (2, ["different operations", "16 at __shfl_sync", "16 at __shfl_xor_sync"]),
        (3, ["has exited and is missed at __syncwarp", "31 at __syncwarp"]),
        (4, ["different operations", "16 at __syncthreads", "48 at __syncthreads"]),
        (5, ["is not in its own mask", "__ballot_sync with mask 0000ffff"]),
        (6, ["wait in a loop for what never comes"]),
        (7, ["written past the end of dynamic shared memory"]),
        (8, ["misaligned access", "self_test.cu:"]),
        (9, ["signed overflow", "self_test.cu:"]),
        (10, ["shift by more than the width", "self_test.cu:"]),
    ],
)
def test_faults_are_reported(library, case, fault, words):
    for seed in range(5):
        library.seed(seed)
        with case(seed=seed):
            assert library.fault(fault, torch.zeros(4, dtype=torch.int32)) == LAUNCH_FAILURE
            assert [word for word in words if word not in library.report()] == []
            assert library.report() in library.error(LAUNCH_FAILURE).decode()
    assert library.poison(torch.zeros(1, dtype=torch.int32)) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mma(library, dtype):
    a, b, d = random_values(16, 16, dtype=dtype), random_values(8, 16, dtype=dtype), torch.zeros(16, 8)
    assert library.mma(a, b, d, int(dtype is torch.bfloat16)) == 0
    torch.testing.assert_close(d, 1 + a.float() @ b.float().T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wgmma(library, case, dtype):
    a, b = random_values(64, 64, dtype=dtype), random_values(64, 64, dtype=dtype).flip(0)
    for seed in SEEDS:
        library.seed(seed)
        d = torch.zeros(64, 64)
        with case(seed=seed):
            assert library.wgmma(a, b, d, int(dtype is torch.bfloat16), 0) == 0
            torch.testing.assert_close(d, a.float() @ b.float().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mistake", "word"),
    [
        (NO_WAIT, None),
        (NO_FENCE, "without a wgmma_fence"),
        (NO_PROXY_FENCE, "did not pass on with fence_async_proxy"),
        (NO_BARRIER, None),
        (OVERWRITE, None),
        (OTHER_DESCRIPTOR, "the warps of a warpgroup issue different wgmmas"),
        (TOUCHED, "changed while a wgmma had it"),
    ],
)
def test_mistakes_with_wgmma_show(library, mistake, word):
    a, b = random_values(64, 64, dtype=torch.bfloat16), random_values(64, 64, dtype=torch.bfloat16)
    found = 0
    for seed in SEEDS:
        library.seed(seed)
        d = torch.zeros(64, 64)
        if library.wgmma(a, b, d, 1, mistake):
            found += word is None or word in library.report()
        else:
            found += word is None and not torch.allclose(d, a.float() @ b.float().T, atol=1e-4)
    assert found == len(SEEDS) if word else found > len(SEEDS) // 2


def test_asynchronous_copies_land_when_waited_for(library):
    source = torch.arange(1, 129, dtype=torch.int32)
    expected = torch.where(torch.arange(128) < 4 * 20, source, 0)
    early = 0
    for seed in SEEDS:
        for pending in range(3):
            library.seed(seed)
            out = torch.zeros(128, dtype=torch.int32)
            assert library.copy(source, out, 20, pending) == 0
            if pending < 2:
                assert torch.equal(out, expected)
            else:
                early += not torch.equal(out, expected)
    assert early == len(SEEDS)


def test_graph_records_and_replays(library):
    x, history = torch.full((32,), 9, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
    synchronized = torch.zeros(1, dtype=torch.int32)
    update_of_other_kernels = library.graph(x, history, 10, 100, synchronized)
    assert history.tolist() == [9, 123, 10203]
    assert synchronized == 900
    assert update_of_other_kernels == 910


def test_large_dynamic_shared_memory_must_be_asked_for(library, monkeypatch):
    assert library.shared_limit(100 << 10, 0) == 1
    assert library.shared_limit(232448, 1) == 0
    assert library.shared_limit(232449, 1) == 1
    monkeypatch.setenv("TRIM_SHIM_SHARED_BYTES", str(99 << 10))
    assert library.shared_limit(100 << 10, 1) == 1


def test_capability_is_chosen(library, monkeypatch):
    assert library.capability() == 90
    monkeypatch.setenv("TRIM_SHIM_CAPABILITY", "8.6")
    assert library.capability() == 86


def test_compiler_errors_are_shown_whole(tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text("#include <cuda_runtime.h>\n__global__ void kernel() { no_such_function(); }\n")
    with pytest.raises(RuntimeError, match=r"wrong\.cu:2[\s\S]*no_such_function"):
        build([source], tmp_path / "libwrong.so")
