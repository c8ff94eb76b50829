from __future__ import annotations

import pytest
import torch

from trim_prune import tiles

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (7, 5), (3, 100)])
def test_tiles_are_all_rows_in_order(rows, columns, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 12)
    matrix = torch.arange(rows * columns).view(rows, columns)
    parts = [matrix[these] for these in tiles.row_tiles(matrix)]
    assert torch.equal(torch.cat([matrix[:0], *parts]), matrix)
    assert all(len(part) == 1 or part.numel() <= 12 for part in parts)


def test_a_gpu_looks_at_more_at_once(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 10)
    assert tiles.values_of_tile(GPU) == tiles.TIMES_ON_GPU * tiles.values_of_tile(CPU)
    waiting = torch.zeros(100, 10)
    assert (len(list(tiles.row_tiles(waiting))), len(list(tiles.row_tiles(waiting, GPU)))) == (100, 13)
