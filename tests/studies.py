"""Runs for test_record, in a module of their own: a new process has it at once."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from experiments.record import record
from vitutils.engine.folder_run import stop_between_steps
from vitutils.engine.machine import write_json

TASKS = [{"seed": seed, "size": 2} for seed in range(4)]


def await_that(holds, seconds=60):
    """Wait until something holds, and say whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not holds():
        time.sleep(0.02)
    return holds()


def double(task):
    """A run: it fails when told so, and leaves a trace of having run."""
    if task.get("fails"):
        raise RuntimeError("this run fails")
    return {"value": 2 * task["seed"], "threads": torch.get_num_threads()}


def deadly(task, folder):
    """A run whose process is killed, as the system does where memory runs out.

    Others are at work in a folder, for ever: there SIGTERM is a wish to stop.
    """
    begun = folder / "begun"
    if task["seed"] in (1, 3):
        with stop_between_steps() as asked:
            while not asked.is_set():
                begun.touch()
                torch.ones(1500, 1500) @ torch.ones(1500, 1500)  # a step takes a while
            raise KeyboardInterrupt("stopped after step 7")
    if task["seed"] == 2:
        await_that(begun.exists)
        os.kill(os.getpid(), signal.SIGKILL)
    return double(task)


def intrude(task, path):
    """A run during which another call records one, and then one that fails."""
    if task["seed"] == 0:
        rows = [{"task": TASKS[3], "value": "another's"}]
        write_json({"settings": {}, "runs": rows}, path)
    return double(task | {"fails": task["seed"] == 1})


def slow(task):
    time.sleep(0.05 if task["seed"] == 0 else 60)
    return {"value": task["seed"]}


def main(arguments):
    """A study, as a command: its first run is done soon, the others take a minute."""

    def perform(name, *, command, workers):
        path = Path("study.json")
        record(path, TASKS, slow, settings={}, command=command, workers=workers)
        return path

    from experiments import command as commands

    commands.MODULES["slow"] = SimpleNamespace(perform=perform, ABOUT={"slow": ""})
    return commands.main(["slow", *arguments])
