"""The driver of ``make gpu``: steps in order, each within its time, none lost when one fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import sanitize, steps
from benchmarks.gpu.build import architecture
from benchmarks.gpu.steps import Step, run_steps
from trim_kernels import native, testing


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(steps, "GRACE", 0.5)


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def run(tmp_path: Path, *wanted: Step, seconds: float = 60.0):
    return list(run_steps(wanted, seconds, tmp_path / "log"))


def test_each_step_is_reported_with_its_last_line_and_logged(tmp_path, capfd):
    good = Step("good", python("print('one'); print('2 passed'); print()"), 30)
    bad = Step("bad", python("import sys; print('first', file=sys.stderr); sys.exit('no such thing')"), 30)
    results = run(tmp_path, good, bad, good)
    assert [(result.name, result.status, result.summary) for result in results] == [
        ("good", "passed", "2 passed"),
        ("bad", "failed", "no such thing"),
        ("good", "passed", "2 passed"),
    ]
    logged = (tmp_path / "log").read_text().splitlines()
    assert [line for line in logged if line in ("2 passed", "first", "no such thing")] == [
        "2 passed",
        "first",
        "no such thing",
        "2 passed",
    ]
    assert "no such thing" in capfd.readouterr().out


HANG = "trap 'echo told to stop' INT; echo started; sleep 600 & echo child $!; wait; sleep 600"


def test_a_step_that_takes_too_long_is_asked_and_then_ended_with_its_children(tmp_path):
    (result, after) = run(tmp_path, Step("hangs", ["sh", "-c", HANG], 3.0), Step("next", python("print('here')"), 30))
    assert result.status == "stopped"
    started, child, told = (tmp_path / "log").read_text().splitlines()[3:6]
    assert (started, told) == ("started", "told to stop")
    assert is_gone(int(child.split()[1]))
    assert (after.status, after.summary) == ("passed", "here")


def is_gone(process: int) -> bool:
    """Ended, though perhaps nobody has asked for its exit code yet."""
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_nothing_is_started_when_the_time_is_over(tmp_path):
    (result,) = run(tmp_path, Step("late", python("print('ran')"), 30), seconds=1.0)
    assert (result.status, result.summary) == ("skipped", "no time left (1 s)")
    assert list(tmp_path.iterdir()) == []


def test_an_obstacle_is_looked_for_when_the_turn_has_come(tmp_path):
    marker = tmp_path / "made"
    make = Step("make", python(f"open({str(marker)!r}, 'w').close()"), 30)
    needs = Step("needs", python("print('ran')"), 30, obstacle=lambda: None if marker.exists() else "not made")
    assert [result.status for result in run(tmp_path, needs, make, needs)] == ["skipped", "passed", "passed"]


def test_a_tool_that_refuses_the_device_is_skipped_and_not_failed(tmp_path):
    program = "import sys; print('===== Error: Device not supported'); print('error 999'); sys.exit(1)"
    (result,) = run(tmp_path, Step("memcheck", python(program), 30, refused="Device not supported"))
    assert (result.status, result.summary) == ("skipped", "error 999")


def test_a_command_that_is_not_there_fails_and_the_next_runs(tmp_path):
    results = run(tmp_path, Step("none", ["/no/such/program"], 30), Step("next", python("print('here')"), 30))
    assert [result.status for result in results] == ["failed", "passed"]
    assert "/no/such/program" in results[0].summary


def test_the_environment_of_a_step_is_its_own(tmp_path):
    program = python("import os; print(os.environ.get('TRIM_TEST_STEP'))")
    results = run(tmp_path, Step("with", program, 30, {"TRIM_TEST_STEP": "set"}), Step("without", program, 30))
    assert [result.summary for result in results] == ["set", "None"]


def test_the_headlines_come_before_the_tests_and_the_rest_last():
    names = [step.name for step in gpu.steps(Path("results.json"))]
    assert names == [
        "wheels",
        "build",
        "doctor",
        "headlines",
        "end to end",
        "tests cuda",
        "tests engine",
        "tests triton",
        "memcheck",
        "racecheck",
        "figures",
    ]
    seconds = [step.seconds for step in gpu.steps(Path("results.json"))]
    assert sum(seconds[1:5]) < 60 * 8.7  # what matters most fits


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """The command with other steps, on a machine that seems to have a GPU."""
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "about", lambda device: {"device": "NVIDIA H200"})
    monkeypatch.setattr(gpu, "environment", lambda given: {})
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    monkeypatch.chdir(gpu.ROOT)

    def run(*wanted: Step) -> tuple[int, dict]:
        monkeypatch.setattr(gpu, "steps", lambda results: list(wanted))
        monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path)])
        return gpu.main(), json.loads((tmp_path / "nvidia-h200.json").read_text())

    return run


def test_the_result_file_holds_the_steps_and_the_summary_is_last(driver, capfd):
    code, content = driver(Step("build", python("print('built')"), 30), Step("tests", python("exit(1)"), 30))
    assert code == 1
    assert [(step["name"], step["status"]) for step in content["steps"]] == [("build", "passed"), ("tests", "failed")]
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines[-3:-1]] == [
        ["build", "passed", "0", "s", "built"],
        ["tests", "failed", "0", "s", "no", "output"],
    ]
    assert lines[-1].endswith("nvidia-h200.json")


def test_what_a_step_writes_into_the_result_file_stays(driver, tmp_path):
    program = f"""
import json, pathlib
path = pathlib.Path({str(tmp_path)!r}, "nvidia-h200.json")
content = json.loads(path.read_text())
content["figures"] = [{{"op": "row_mask"}}]
path.write_text(json.dumps(content))
"""
    code, content = driver(Step("headlines", python(program), 30), Step("tests", python(""), 30))
    assert (code, content["figures"], len(content["steps"])) == (0, [{"op": "row_mask"}], 2)


def test_our_sources_come_first_and_the_toolkit_last():
    found = gpu.environment({"PATH": "/usr/bin", "PYTHONPATH": "/elsewhere"})
    assert found["PYTHONPATH"].split(":")[:2] == [str(gpu.ROOT), str(gpu.ROOT / "python")]
    assert found["PYTHONPATH"].endswith(":/elsewhere")
    assert found["PATH"] == "/usr/bin:/usr/local/cuda/bin"


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((8, 0), "80"),
        ((8, 7), "86"),
        ((8, 9), "89"),
        ((9, 0), "90a"),
        ((10, 3), "100"),
        ((12, 1), "120"),
        ((7, 5), "75"),
    ],
)
def test_the_architecture_is_one_whose_code_the_device_runs(capability, target):
    assert architecture(*capability) == target


@pytest.mark.skipif(native.instruction_set() is None, reason="the native library is not built")
def test_what_the_sanitizer_runs_is_right_on_a_backend_that_is():
    too_wide = sum(values.shape[1] > sanitize.WIDEST_GRAM for values in sanitize.matrices().values())
    calls = len(sanitize.matrices()) * len(sanitize.CALLS) - too_wide
    assert sanitize.run("cpu", "cpu") == calls * len(testing.DTYPES)
