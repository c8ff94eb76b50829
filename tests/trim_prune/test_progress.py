from __future__ import annotations

import io

import pytest
from rich.console import Console

from trim_prune import Event
from trim_prune.progress import Bars, Lines, progress_for

BLOCK = {"seconds": 2.0, "baseline_quality": 0.5, "quality": 0.75}
SEARCH = {"round": 0, "rounds": 2, "generation": 1, "generations": 3, "fitness": "kl"} | {
    "best": 1.25,
    "uniform": 2.5,
    "seconds": 4.0,
}
EVENTS = [
    Event("start", {}, 0.0),
    Event("phase", {"name": "prune"}, 1.0),
    Event("gradients", {"sequence": 1, "sequences": 8}, 2.5),
    Event("sensitivity", {"sequence": 2, "sequences": 4}, 3.0),
    Event("errors", {"block": 0, "blocks": 2}, 3.5),
    Event("search", SEARCH, 5.0),
    Event("round", {"round": 0, "rounds": 2, "fitness": "kl", "loss": 1.5}, 10.0),
    Event("calibration", {"batch": 1, "batches": 1}, 11.0),
    Event("warning", {"message": "mind [the] gap"}, 11.0),
    Event("linear", {"name": "up"}, 12.0),
    Event("block", BLOCK | {"block": 0, "blocks": 3}, 14.0),
    Event("block", {"block": 1, "blocks": 3, "seconds": 1.0, "baseline_quality": None, "quality": None}, 18.0),
    Event("finish", {}, 20.0),
]


RESUMED = [
    Event("phase", {"name": "prune"}, 1.0),
    Event("resumed", {"blocks_done": 2, "blocks": 4}, 11.0),
    Event("block", BLOCK | {"block": 2, "blocks": 4}, 14.0),
]


def terminal(width=160):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def play(progress):
    with progress:
        for event in EVENTS:
            progress(event)


def test_without_a_terminal_there_is_a_plain_line_per_block(capsys):
    play(progress_for(Console(file=io.StringIO(), force_terminal=False)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "prune",
        "gradients 1/8",
        "sensitivity 2/4",
        "errors of block 1/2",
        "round 1/2 generation 1/3  kl 1.2500, uniform 2.5000  4.0 s",
        "round 1/2  kl 1.5000 by masks of its own",
        "warning: mind [the] gap",
        "block 1/3  2.0 s  quality 0.5000 -> 0.7500  about 8 s left",
        "block 2/3  1.0 s  about 4 s left",
    ]


def test_on_a_terminal_there_are_bars_for_calibration_and_blocks():
    console = terminal()
    play(progress_for(console))
    shown = console.file.getvalue()
    assert "capture" in shown
    assert "blocks" in shown
    assert "2/3" in shown
    assert "kl 1.2500, uniform 2.5000" in shown
    assert "kl 1.5000 by masks of its own" in shown
    assert "quality 0.5000 -> 0.7500" in shown
    assert "warning: mind [the] gap" in shown


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, Bars), (False, Lines)])
def test_the_console_decides(is_terminal, kind):
    assert isinstance(progress_for(Console(file=io.StringIO(), force_terminal=is_terminal)), kind)


def test_bars_stop_when_the_run_fails():
    console = terminal()
    bars = Bars(console)

    def fail():
        with bars:
            assert bars._progress.live.is_started
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not bars._progress.live.is_started


def test_time_that_an_earlier_process_spent_is_not_counted(capsys):
    progress = Lines()
    for event in RESUMED:
        progress(event)
    assert capsys.readouterr().err.splitlines() == [
        "prune",
        "going on after block 2/4",
        "block 3/4  2.0 s  quality 0.5000 -> 0.7500  about 3 s left",
    ]
    bars = Bars(terminal())
    with bars:
        for event in RESUMED:
            bars(event)
        (task,) = bars._progress.tasks
        assert (task.completed, task.total) == (3, 4)
