"""Recorded runs: kept one by one, gone on with, never mixed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studies import TASKS, await_that, deadly, double, intrude

from experiments.record import record
from vitutils.data import DATA
from vitutils.engine.machine import machine, write_json
from vitutils.engine.writing import write_atomically

REAL = (DATA / "results" / "looks.json").read_bytes()


def begin(folder, *words):
    """Start that command as a process with a session of its own."""
    code = (
        "from vitutils.__main__ import start\n"
        "raise SystemExit(start('studies', stopped='stopped'))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def none_left(session):
    """Tell whether no process of a session is left."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow(8)
def test_every_task_is_recorded_in_order_with_where_it_ran(tmp_path):
    path = tmp_path / "results" / "study.json"
    done = {"task": TASKS[2], "value": "kept", "threads": 1, "seconds": 0}
    begun = {"settings": {"sizes": [1, 2]}, "runs": [done], "command": "w"}
    begun |= {"device": "another processor", "workers": 1}
    write_json(begun, path)
    held = record(
        path, TASKS, double, settings={"sizes": (1, 2)}, command="x", workers=2
    )
    assert json.loads(path.read_text()) == held
    assert [row["task"] for row in held["runs"]] == TASKS
    assert [row["value"] for row in held["runs"]] == [0, 2, "kept", 6]
    assert all(row["threads"] == 1 and row["seconds"] >= 0 for row in held["runs"])
    assert held["settings"] == {"sizes": [1, 2]}
    here = {"device": machine()["device"], "workers": 2}  # the head is the first one's
    elsewhere = [row.get("elsewhere") for row in held["runs"]]
    assert elsewhere == [here, here, None, here]
    assert (held["device"], held["workers"]) == ("another processor", 1)
    assert held.keys() >= machine().keys() and "torch" in held["versions"]
    assert held["command"] == "w; x"  # a shell that is given this makes all


def test_tasks_that_are_no_longer_asked_for_leave_the_record(tmp_path):
    path = tmp_path / "study.json"
    write_json({"settings": {}, "runs": [{"task": task} for task in TASKS]}, path)
    held = record(path, TASKS[1:3], double, settings={}, command="x", workers=1)
    assert [row["task"] for row in held["runs"]] == TASKS[1:3]
    assert json.loads(path.read_text()) == held


@pytest.mark.slow(4)
def test_a_failed_run_loses_nothing_not_even_of_another_call(tmp_path):
    path = tmp_path / "study.json"
    run = partial(intrude, path=path)
    with pytest.raises(RuntimeError, match="this run fails"):
        record(path, TASKS, run, settings={}, command="x", workers=1)
    held = json.loads(path.read_text())["runs"]
    assert [row["value"] for row in held] == [0, "another's"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"settings": {"lr": 1}, "runs": []}', r"other settings \(lr\)"),
        ('{"settings": {"lr": 2, "x": 0}, "runs": []}', r"other settings \(x\)"),
        ('{"settings": ', "is not a record of runs"),
        ("[]", "is not a record of runs"),
        ('{"settings": {"lr": 2}, "runs": null}', "is not a record of runs"),
        ('{"settings": [2], "runs": []}', "is not a record of runs"),
        ('{"settings": {"lr": 2}, "runs": [{"seconds": 1}]}', "is not a record of"),
        ('{"settings": {"lr": 2}, "runs": [], "x": 1e999}', "is not a record of runs"),
        ("[" * 100_000, "is not a record of runs"),
    ],
)
def test_records_of_other_settings_and_broken_files_are_refused(tmp_path, text, words):
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as refused:
        record(path, TASKS, double, settings={"lr": 2}, command="x")
    assert str(path) in str(refused.value) and "move it away" in str(refused.value)
    assert path.read_text() == text


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_read(tmp_path, make):
    make(tmp_path / "study.json")
    with pytest.raises(ValueError, match=r"study\.json is not a record of runs .*away"):
        record(tmp_path / "study.json", TASKS, double, settings={}, command="x")


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def places(value):
    """Yield (container, key) of each value in a value of JSON."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@st.composite
def other_values(draw):
    """A real record, in which a few values are others or gone."""
    held = json.loads(REAL)
    for _ in range(draw(st.integers(1, 3))):
        # The outer ones are few and matter most.
        outer = [(held, key) for key in held]
        container, key = draw(st.sampled_from(outer) | st.sampled_from([*places(held)]))
        if draw(st.booleans()):
            container[key] = draw(VALUES)
        elif key in container or isinstance(container, list):
            del container[key]
    return json.dumps(held).encode()


@st.composite
def other_bytes(draw):
    """A real record, of which some bytes are others, more or gone."""
    start = draw(st.integers(0, len(REAL)))
    stop = draw(st.integers(start, len(REAL)) | st.just(start + 1))
    return REAL[:start] + draw(st.binary(max_size=20)) + REAL[stop:]


@pytest.mark.slow(8)
@settings(
    max_examples=500,
    derandomize=True,
    database=None,
    deadline=10_000,  # milliseconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=other_values() | other_bytes())
def test_a_changed_record_is_read_or_refused_in_a_line(tmp_path, content):
    path = tmp_path / "study.json"
    path.write_bytes(content)
    known = json.loads(REAL)["settings"]
    try:
        held = record(path, [], double, settings=known, command="x")
    except ValueError as error:
        words = str(error)
        assert words.startswith(str(path)) and "move it away" in words
        assert "\n" not in words
        assert path.read_bytes() == content
    else:
        assert (held["settings"], held["runs"]) == (known, [])


# ---- what ends ----


@pytest.mark.slow(13)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_is_done_and_leave_nothing(tmp_path, signum):
    run, path = begin(tmp_path), tmp_path / "study.json"
    assert await_that(path.exists)
    if signum == signal.SIGINT:
        os.killpg(run.pid, signum)  # as the terminal does: to every process
    else:
        run.send_signal(signum)
    _, words = run.communicate(timeout=30)
    assert (run.returncode, words) == (130, "stopped\n")
    assert await_that(lambda: none_left(run.pid), seconds=5)
    assert [row["value"] for row in json.loads(path.read_text())["runs"]] == [0]
    assert os.listdir(tmp_path) == ["study.json"]


@pytest.mark.slow(4)
@pytest.mark.parametrize("seconds", [0.5, 2.5, 4])
def test_ctrl_c_in_the_first_seconds_is_a_line_too(tmp_path, seconds):
    run = begin(tmp_path)
    time.sleep(seconds)
    os.killpg(run.pid, signal.SIGINT)
    _, words = run.communicate(timeout=30)
    assert (run.returncode, words) == (130, "stopped\n")
    assert await_that(lambda: none_left(run.pid), seconds=5)


@pytest.mark.slow(10)
def test_workers_end_with_the_process_that_began_them(tmp_path):
    run = begin(tmp_path)
    assert await_that((tmp_path / "study.json").exists)
    run.kill()
    assert await_that(lambda: run.poll() is not None and none_left(run.pid), seconds=5)


@pytest.mark.slow(13)
@pytest.mark.timeout(100)
def test_a_process_that_is_killed_ends_the_study_and_the_same_call_goes_on(tmp_path):
    path, run = tmp_path / "study.json", partial(deadly, folder=tmp_path)
    with pytest.raises(RuntimeError, match=r"the run \{'seed': 2, .* has died \(.*-9"):
        record(path, TASKS, run, settings={}, command="x", workers=2)
    assert time.time() - (tmp_path / "begun").stat().st_mtime < 10  # the last step
    done = [row["value"] for row in json.loads(path.read_text())["runs"]]
    assert done == [0]
    assert multiprocessing.active_children() == []
    held = record(path, TASKS, double, settings={}, command="x", workers=1)
    assert [row["value"] for row in held["runs"]] == [0, 2, 4, 6]


# ---- files ----


def write_and_die(path, place):
    """Write to a file, and be killed as it does: at a place, or half way."""

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def write(part):
        part.write_text("half of it")
        (part.parent / ".tmp").write_text("half")
        if place == "write":
            die()

    if place != "write":
        setattr(os, place, die)
    write_atomically(path, write)


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_write_that_is_killed_leaves_the_old_file_and_the_next_clears_up(
    tmp_path, place
):
    path = tmp_path / "study.json"
    write_json({"old": True}, path)
    fork = multiprocessing.get_context("fork").Process
    process = fork(target=write_and_die, args=(path, place))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"old": True}
    assert len(os.listdir(tmp_path)) == 2
    write_json({"old": False}, path)
    assert os.listdir(tmp_path) == ["study.json"]


def test_a_file_is_replaced_and_not_written_over(tmp_path):
    path, other = tmp_path / "study.json", tmp_path / "other"
    write_json({"old": True}, path)
    os.link(path, other)  # as whoever reads it right now
    write_json({"old": False}, path)
    assert json.loads(other.read_text()) == {"old": True}
    assert json.loads(path.read_text()) == {"old": False}


@pytest.mark.parametrize("pid", [os.getppid(), "x", "9" * 30])
def test_what_another_process_is_writing_stays(tmp_path, pid):
    part = tmp_path / f".study.json.{pid}.part"
    part.mkdir()
    write_json({}, tmp_path / "study.json")
    assert part.exists()
