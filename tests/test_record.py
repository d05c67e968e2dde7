"""Recorded runs: kept one by one, gone on with, never mixed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from experiments.record import record
from vitutils.engine.machine import machine

TASKS = [{"seed": seed, "size": 2} for seed in range(4)]


def double(task):
    """A run: it fails when told so, and leaves a trace of having run."""
    if task.get("fails"):
        raise RuntimeError("this run fails")
    return {"value": 2 * task["seed"], "threads": torch.get_num_threads()}


def deadly(task):
    """A run whose process is killed, as the system does where memory runs out."""
    if task["seed"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(task)


def slow(task):
    time.sleep(0.05 if task["seed"] == 0 else 60)
    return {"value": task["seed"]}


@pytest.mark.slow(5)
def test_every_task_is_recorded_in_order_with_where_it_ran(tmp_path):
    path = tmp_path / "results" / "study.json"
    held = record(
        path, TASKS, double, settings={"sizes": (1, 2)}, command="x", workers=2
    )
    assert json.loads(path.read_text()) == held
    assert [row["task"] for row in held["runs"]] == TASKS
    assert [row["value"] for row in held["runs"]] == [0, 2, 4, 6]
    assert all(row["threads"] == 1 and row["seconds"] >= 0 for row in held["runs"])
    assert held["settings"] == {"sizes": [1, 2]} and held["workers"] == 2
    assert held["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert held.keys() >= machine().keys()
    assert held["command"] == "x"


@pytest.mark.slow(8)
def test_a_failed_run_loses_nothing_and_done_ones_are_not_repeated(tmp_path):
    path = tmp_path / "study.json"
    bad = {"seed": 9, "fails": True}
    with pytest.raises(RuntimeError, match="this run fails"):
        record(path, [*TASKS[:2], bad], double, settings={}, command="x", workers=1)
    first = json.loads(path.read_text())["runs"]
    assert [row["task"] for row in first] == TASKS[:2]
    first[0]["value"] = "kept"
    path.write_text(json.dumps({"settings": {}, "runs": first}))
    held = record(path, TASKS, double, settings={}, command="x", workers=1)
    assert [row["value"] for row in held["runs"]] == ["kept", 2, 4, 6]


@pytest.mark.slow(5)
def test_tasks_that_are_no_longer_asked_for_leave_the_record(tmp_path):
    path = tmp_path / "study.json"
    record(path, TASKS, double, settings={}, command="x", workers=1)
    held = record(path, TASKS[1:3], double, settings={}, command="x", workers=1)
    assert [row["task"] for row in held["runs"]] == TASKS[1:3]
    assert json.loads(path.read_text()) == held


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"settings": {"lr": 1}, "runs": []}', r"other settings \(lr\)"),
        ('{"settings": {"lr": 2, "x": 0}, "runs": []}', r"other settings \(x\)"),
        ('{"settings": ', "is not a record of runs"),
        ("[]", "is not a record of runs"),
    ],
)
def test_records_of_other_settings_and_broken_files_are_refused(tmp_path, text, words):
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        record(path, TASKS, double, settings={"lr": 2}, command="x")
    assert path.read_text() == text


@pytest.mark.slow(6)
def test_ctrl_c_keeps_what_is_done(tmp_path):
    code = (
        "import signal\n"
        "from pathlib import Path\n"
        "from test_record import TASKS, slow\n"
        "from experiments.record import record\n"
        "if __name__ == '__main__':\n"
        # A shell starts background jobs with Ctrl-C ignored, and tests inherit that.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    more = dict(settings={}, command='x', workers=1)\n"
        "    record(Path('study.json'), TASKS, slow, **more)\n"
    )
    (tmp_path / "study.py").write_text(code)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen(
        [sys.executable, "study.py"],
        cwd=tmp_path,
        env=variables,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    path = tmp_path / "study.json"
    for _ in range(600):
        if path.exists():
            break
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # as the terminal does: to every process
    run.communicate(timeout=120)
    assert run.returncode != 0
    assert [row["value"] for row in json.loads(path.read_text())["runs"]] == [0]


@pytest.mark.slow(10)
def test_a_process_that_is_killed_ends_the_study_and_the_same_call_goes_on(tmp_path):
    path = tmp_path / "study.json"
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"a task of .*study\.json has died"):
        record(path, TASKS, deadly, settings={}, command="x", workers=1)
    assert time.monotonic() - start < 60
    done = [row["value"] for row in json.loads(path.read_text())["runs"]]
    assert done == [0, 2]
    assert multiprocessing.active_children() == []
    held = record(path, TASKS, double, settings={}, command="x", workers=2)
    assert [row["value"] for row in held["runs"]] == [0, 2, 4, 6]
