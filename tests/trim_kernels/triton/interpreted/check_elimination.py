from __future__ import annotations

import pytest
import torch

from trim_kernels import obs_update_, testing


def elimination(device, *arguments):
    return [tensor.to(device) for tensor in testing.elimination(*arguments)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (0, 5), (3, 7), (9, 128), (10, 150)], ids=str)
def test_it_is_as_exact_as_plain_float32(shape, device):
    for sparsity in (0.0, 0.6, 1.0):
        testing.check_obs_update("triton", *elimination(device, *shape, sparsity))


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_every_argument_may_lie_in_memory_in_any_way(layout, device):
    weight, kept, factor = testing.elimination(9, 37)
    lay = testing.LAYOUTS[layout]
    transposed = kept.t().contiguous().to(device).t()
    testing.check_obs_update("triton", lay(weight.to(device)), transposed, lay(factor.to(device)))


@pytest.mark.parametrize(("name", "position"), [("weight", (2, 36)), ("factor", (0, 36))])
def test_a_bad_value_leaves_the_weight_as_it_was(name, position, device):
    given = dict(zip(("weight", "kept", "factor"), elimination(device, 3, 37), strict=True))
    given[name][position] = torch.nan
    before = given["weight"].clone()
    with pytest.raises(ValueError, match=rf"^{name}: expected finite values, got nan at "):
        obs_update_(**given, backend="triton")
    assert torch.equal(given["weight"].nan_to_num(7), before.nan_to_num(7))
