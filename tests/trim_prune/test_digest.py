from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trim_prune import digest
from trim_prune.digest import checksum

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.sampled_from(TYPES), st.integers(0, 10_000), st.data())
def test_every_byte_and_its_place_count(size, dtype, seed, data):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, 200, (size,), generator=generator).to(dtype)
    changed = tensor.clone()
    content = changed.view(torch.uint8)
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = int(content[place]) ^ data.draw(st.integers(1, 255))
    assert checksum([tensor]) == checksum([tensor.clone()])
    assert checksum([tensor]) != checksum([changed])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_order_counts(size, seed):
    tensor = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    swapped = tensor.clone()
    swapped[0], swapped[-1] = tensor[-1], tensor[0]
    assert checksum([tensor]) != checksum([swapped])
    assert checksum([tensor[:1], tensor[1:]]) != checksum([tensor[1:], tensor[:1]])


def test_types_and_shapes_count():
    tensors = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(6).int(),
        torch.zeros(0),
        torch.zeros(1),
    ]
    assert len({checksum([tensor]) for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("words", [1, 3, 7])
def test_pieces_add_up(words, monkeypatch):
    tensor = torch.randn(5, 33)
    whole = checksum([tensor, tensor.half()])
    monkeypatch.setattr(digest, "WORDS", words)
    assert checksum([tensor, tensor.half()]) == whole


def test_a_view_is_as_good_as_a_copy():
    tensor = torch.randn(9, 7)
    for view in (tensor[1:, 2:5], tensor.t(), tensor[3], tensor.half()[1], tensor.half().view(-1)[3:20]):
        assert checksum([view]) == checksum([view.clone()])
