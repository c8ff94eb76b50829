"""What ranks can ask of one another, each rank a fork of this process; prints nothing if all of it is right."""

from __future__ import annotations

import os
import socket
import sys

import pytest
import torch

from trim_prune.team import OrderedSum, RankError, open_team

TYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.uint8, torch.bool)


def made(rank, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rank)
    return (torch.randn(*shape, generator=generator) * 50).to(dtype)


def check(team, size):
    rank, ranks = team.rank, range(size)
    assert team.size == team.on_machine == size
    assert team.exchange({"rank": rank, "text": "é" * rank}) == [{"rank": r, "text": "é" * r} for r in ranks]
    assert team.lead(lambda: ["of", team.rank]) == ["of", 0]
    check_tensors(team, ranks)
    check_parts(team, ranks)
    for groups in ({0, 1, 2, 3, 4, 5, 6, 7}, {1, 6}, {3}):
        check_sums(team, groups)


def check_tensors(team, ranks):
    rank = team.rank
    for dtype in TYPES:
        mine = [made(rank, rank, 3, dtype=dtype), made(rank + 10, 4, dtype=dtype)]
        theirs = [made(r + ten, *shape, dtype=dtype) for r in ranks for ten, shape in ((0, (r, 3)), (10, (4,)))]
        assert equal(team.everyones(mine), theirs)
        assert equal(team.to_first(mine), theirs if rank == 0 else [])
        whole = [made(number, 2, 2, dtype=dtype) for number in range(1 + sum(ranks))]
        start = sum(range(rank)) + (rank > 0)
        assert equal(team.from_first(whole if rank == 0 else [], rank + (rank == 0)), whole[start:][: max(rank, 1)])
        copied = [made(rank, 3, 4, dtype=dtype), made(rank, 3, 4, dtype=dtype).t()]
        team.copy(copied)
        assert equal(copied, [made(0, 3, 4, dtype=dtype), made(0, 3, 4, dtype=dtype).t()])


def check_parts(team, ranks):
    done = []

    def work(index):
        done.append(index)
        return {"index": index, "rank": team.rank}, [made(index, index, 2), made(index, 3, dtype=torch.uint8)]

    found = team.divide([3, 0, 9, 4, 4], work)
    assert [facts["index"] for facts, _ in found] == [0, 1, 2, 3, 4]
    assert all(equal(tensors, work(index)[1]) for index, (_, tensors) in enumerate(found))
    assert sorted(index for theirs in team.exchange(done[:-5]) for index in theirs) == [0, 1, 2, 3, 4]
    assert team.divide([], work) == []
    values = made(7, 5000, 2)
    assert torch.equal(team.by_rows(5000, lambda rows: values[rows] * 2), values * 2)


def check_sums(team, groups):
    def summed(own):
        sums = OrderedSum()
        for group in sorted(own & groups):
            sums.part(group, lambda: torch.zeros(5, 3)).add_(made(group, 5, 3) * 10.0**group)
        sums.settle()
        return sums

    sums = summed({number for number, _ in team.groups(32)})
    nodes = team.exchange(list(sums.nodes))
    total = team.total(sums, nodes, [5, 3], torch.float32, torch.device("cpu")).total()
    assert torch.equal(total, summed(set(range(8))).total())


def equal(found, expected):
    return len(found) == len(expected) and all(
        one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(found, expected, strict=True)
    )


def several(size, work):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        process = os.fork()
        if not process:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            try:
                work(rank, size)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        processes.append(process)
    assert all(os.waitpid(process, 0)[1] == 0 for process in processes)


def talk(rank, size):
    # Twice: a process may prune more than once.
    for _ in range(2):
        with open_team("cpu") as team:
            check(team, size)


def one_dies(rank, size):
    with open_team("cpu") as team:
        team.exchange(None)
        if rank == 1:
            os._exit(0)
        with pytest.raises(RankError, match=f"rank {rank} of {size} noticed it"):
            team.exchange(None)
        os._exit(0)


torch.set_num_threads(1)
for count in (2, 3, 5):
    several(count, talk)
several(3, one_dies)
