"""Recorded runs: each result is kept as it comes, with where it was measured."""

import gc
import json
import os
import signal
import threading
import time
import traceback
from contextlib import closing, contextmanager, suppress
from itertools import islice
from multiprocessing import Pipe, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path

import torch
from tqdm import tqdm

from vitutils.engine.machine import CORES, machine, write_json


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
        command: what the caller was started by, to be kept beside the results, behind
            another one that made the rest of them.
        workers: processes at a time; None: one for each core.

    Returns:
        What the file holds: settings, where it was measured, and ``runs``, one dict
        a task with its results and its seconds, and "elsewhere" what differs from
        the file's machine where it was measured on another one.

    Raises:
        ValueError: the file is corrupt or holds runs of other settings.
        RuntimeError: a process has died, and which run it had; what is done is kept.
    """
    path = Path(path)
    held = reload(path, settings)
    done = by_task(held)
    todo = [task for task in tasks if identity(task) not in done]
    held["runs"] = [done[i] for i in map(identity, tasks) if i in done]
    if not todo:
        if len(done) > len(tasks):
            write_json(held, path)
        return held
    made_by = held.get("command", command).split("; ")
    held["command"] = "; ".join([*made_by, *({command} - {*made_by})])
    here = machine("torch", "torchvision") | {"workers": workers or CORES}
    held["date"] = here.pop("date")
    others = {name: v for name, v in here.items() if held.setdefault(name, v) != v}
    bar = tqdm(
        total=len(tasks),
        initial=len(tasks) - len(todo),
        unit="run",
        disable=None,  # in terminals only
    )
    with closing(results(run, todo, here["workers"])) as rows, bar:
        for row in rows:
            row |= {"elsewhere": others} if others else {}
            done |= by_task(reload(path, settings))  # it may have runs of another call
            done[identity(row["task"])] = row
            held["runs"] = [done[i] for i in map(identity, tasks) if i in done]
            write_json(held, path)
            bar.update()
    return held


def results(run, tasks, count):
    """Yield a row for each task as it is done, by so many processes at a time.

    Each process has a pipe of its own, so that no other one waits for what a dead one
    holds. In the end, whatever it is, none of them is left.
    """
    tasks, at_work = iter(tasks), {}  # pipe -> its process and task
    try:
        for task in islice(tasks, count):
            with undisturbed():
                pipe, process = begin(run)
                at_work[pipe] = process, task
            send(pipe, task)
        while at_work:
            for pipe in wait(at_work):
                process, task = at_work[pipe]
                try:
                    row = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    raise RuntimeError(
                        f"the process of the run {task} has died (status "
                        f"{process.exitcode}; was it killed, or was there no memory "
                        "left?): what is done is kept, and the same call goes on"
                    ) from None
                if isinstance(row, Exception):
                    raise row
                at_work[pipe] = process, (task := next(tasks, None))
                send(pipe, task)
                if task is None:
                    process.join()
                    del at_work[pipe]
                yield row
    finally:
        with undisturbed():
            end(process for process, _ in at_work.values())


def send(pipe, task):
    with suppress(OSError):  # of a process that has died: reading from it will tell
        pipe.send(task)


def begin(run):
    """Start a process that waits for tasks; return a pipe to it, and it."""
    here, there = Pipe()
    process = get_context("spawn").Process(target=work, args=(there, run))
    process.start()
    there.close()
    return here, process


def end(processes):
    """End processes, also ones that would rather end a step first."""
    processes = [*processes]
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=3)  # seconds
        process.kill()
        process.join()


@contextmanager
def undisturbed():
    """Let Ctrl-C and SIGTERM wait until processes have begun, or ended, all of them.

    A process that begins here never sees Ctrl-C: that is for who waits for it.
    """
    asked = []
    resource_tracker.ensure_running()  # as it starts, it would unblock Ctrl-C
    stops = signal.SIGINT, signal.SIGTERM
    before = {s: signal.signal(s, lambda s, _: asked.append(s)) for s in stops}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in asked[:1]:
            signal.raise_signal(signum)


def work(pipe, run):
    """Run the tasks that come through a pipe and send back their rows, until None."""
    gc.freeze()  # all that is imported is no garbage, not in the end either
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the other cores have tasks of their own
    tqdm.set_lock(threading.RLock())  # not one of all processes, which outlives a kill
    # The first is what SIGTERM becomes in a run with a folder; the others are of a pipe
    # whose other end is gone.
    with suppress(KeyboardInterrupt, EOFError, OSError):
        while (task := pipe.recv()) is not None:
            try:
                row = timed(run, task)
            except Exception as error:
                error.add_note(traceback.format_exc())
                row = error
            pipe.send(row)


def end_with_parent():
    parent_process().join()  # however it ends
    os._exit(1)


def reload(path, settings):
    """Return what an earlier call left in ``path``, or an empty record."""
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not path.exists():
        return {"settings": settings, "runs": []}
    try:
        held = read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a record of runs ({type(error).__name__}: {error}): "
            "move it away, and the runs start anew"
        ) from error
    recorded = held["settings"]
    if recorded != settings:
        names = sorted(
            name if name.isprintable() else repr(name)
            for name in recorded.keys() | settings.keys()
            if recorded.get(name) != settings.get(name)
        )
        raise ValueError(
            f"{path} holds runs with other settings ({', '.join(names)}): move it "
            "away, and the runs start anew"
        )
    return held


def read(path):
    """Return the record in a file; raise a ValueError or OSError if it is none."""
    if not path.is_file():
        raise OSError("no file")
    held = json.loads(path.read_text(encoding="utf-8"))
    json.dumps(held, allow_nan=False)  # NaN can be read, and not be written again
    match held:
        case {"settings": dict(), "runs": list(rows)} if all(map(is_row, rows)):
            return held
    raise ValueError("its settings or runs have another form")


def is_row(row):
    return isinstance(row, dict) and isinstance(row.get("task"), dict)


def by_task(held):
    return {identity(row["task"]): row for row in held["runs"]}


def identity(task):
    return json.dumps(task, sort_keys=True)


def timed(run, task):
    start = time.perf_counter()
    results = run(task)
    return {"task": task} | results | {"seconds": round(time.perf_counter() - start, 1)}
