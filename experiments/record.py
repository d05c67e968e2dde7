"""Recorded runs: each result is kept as it comes, with where it was measured."""

import json
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path

import torch
from tqdm import tqdm

from vitutils.data.files import CORES
from vitutils.engine.machine import machine, write_json


def record(path, tasks, run, *, settings, command, workers=None):
    """Run tasks, several at a time, and keep each result in a JSON file.

    A task that the file holds already is not run again: after Ctrl-C the same call
    goes on. One that is no longer among the tasks leaves the file.

    Args:
        path: the JSON file; written whole after every task.
        tasks: dicts of plain values, each different.
        run: a function of a module, task to a dict of results; it runs in a process
            of its own with one torch thread.
        settings: what all tasks share, plain values; a file with others is refused.
        command: what the caller was started by, to be kept beside the results.
        workers: processes at a time; None: one for each core.

    Returns:
        What the file holds: settings, where it was measured, and ``runs``, one dict
        a task with its results and its seconds.

    Raises:
        ValueError: the file is corrupt or holds runs of other settings.
        RuntimeError: a process has died; what is done is kept.
    """
    path = Path(path)
    held = reload(path, settings)
    done = {identity(row["task"]): row for row in held["runs"]}
    todo = [task for task in tasks if identity(task) not in done]
    held["runs"] = [done[i] for i in map(identity, tasks) if i in done]
    if not todo:
        if len(done) > len(tasks):
            write_json(held, path)
        return held
    held |= {"command": command}
    held |= machine("torch", "torchvision") | {"workers": workers or CORES}
    bar = tqdm(total=len(tasks), initial=len(tasks) - len(todo), unit="run")
    with processes(held["workers"]) as pool, bar:
        try:
            for future in as_completed(pool.submit(timed, run, task) for task in todo):
                row = future.result()
                done[identity(row["task"])] = row
                held["runs"] = [done[i] for i in map(identity, tasks) if i in done]
                write_json(held, path)
                bar.update()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process that ran a task of {path} has died (was it killed, or was "
                "there no memory left?): what is done is kept; the same call goes on"
            ) from error
    return held


@contextmanager
def processes(count):
    """Yield a pool of so many processes; in the end none of them is left."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), begin_worker)
    others = {*active_children()}
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in {*active_children()} - others:
            process.terminate()
            process.join()


def begin_worker():
    torch.set_num_threads(1)  # the other cores have tasks of their own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who waits for us


def reload(path, settings):
    """Return what an earlier call left in ``path``, or an empty record."""
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not path.exists():
        return {"settings": settings, "runs": []}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        recorded, _ = held["settings"], held["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a record of runs ({type(error).__name__}: {error}): "
            "move it away, and the runs start anew"
        ) from error
    if recorded != settings:
        names = sorted(
            name
            for name in recorded.keys() | settings.keys()
            if recorded.get(name) != settings.get(name)
        )
        raise ValueError(
            f"{path} holds runs with other settings ({', '.join(names)}): move it "
            "away, and the runs start anew"
        )
    return held


def identity(task):
    return json.dumps(task, sort_keys=True)


def timed(run, task):
    start = time.perf_counter()
    results = run(task)
    return {"task": task} | results | {"seconds": round(time.perf_counter() - start, 1)}
