"""A run that is kept in a folder: how it stops, goes on, and shows what it does."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vitutils import processes
from vitutils.engine.checkpoints import load_state, save_model, save_state
from vitutils.train import Evaluation, Run, Step

COUNTERS = ("step", "epoch", "batch", "images", "loss", "best", "seconds", "stepping")
COUNTERS += ("waiting", "history")
NOT_COMPARED = {"model", "data", "loss_fn", "device", "progress", "step", "run"}
SAVE_EVERY = 600  # seconds, where an epoch takes longer


class FolderRun(Run):
    """A run of ``fit`` that keeps its files in a folder.

    The folder gets the best model by validation accuracy (``best.safetensors``; before
    the first validation, the model as it is), the state to resume from (``last.pt``,
    after each epoch and every ten minutes), and TensorBoard's curves. Where several
    processes train, the first one keeps the files. Ctrl-C, or SIGTERM, ends the run
    when the step is done and saved; a second Ctrl-C ends it at once.

    Args:
        folder: of this run.
        resume: go on with the run in the folder, if there is one.
        setup: plain values by name that a resumed run must share too, as the names of
            what ``data`` and ``loss_fn`` were made from.

    Raises:
        FileExistsError: the folder holds a run, and ``resume`` is False.
        ValueError: the run in the folder has other settings, or is not whole.
        KeyboardInterrupt: after Ctrl-C, when the step is done and saved.
        RuntimeError: another process has died; what is done is saved.
    """

    def __init__(
        self, folder: str | Path, *, resume: bool = False, setup: dict | None = None
    ) -> None:
        super().__init__()
        self.folder, self.resume, self.setup = Path(folder), resume, setup or {}
        self.keeps = processes.rank() == 0
        self.best = -1.0

    @contextmanager
    def open(self, step: Step, settings: dict) -> Iterator[None]:
        """Take up the run in the folder, or begin one there."""
        self.parts, self.model = step.stateful(), step.measured
        self.shared = shared_settings(step, settings, self.setup)
        state = processes.ask_first(self.earlier)
        if state is not None:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            for name in COUNTERS:
                setattr(self, name, state[name])
        self.board = None
        if self.keeps:
            # TensorBoard takes seconds to import: only runs that keep files pay.
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.folder, purge_step=self.step or None)
        images = len(settings["data"].train)
        self.bar = tqdm(
            total=settings["epochs"] * images,
            initial=self.epoch * images + self.images,
            leave=False,
            unit=" images",
            unit_scale=True,
            # None: in terminals only
            disable=None if settings["progress"] and self.keeps else True,
        )
        self.saved, self.began = time.perf_counter(), self.step
        with super().open(step, settings), stop_between_steps() as self.asked, self.bar:
            try:
                yield
            except RuntimeError as error:
                if processes.count() == 1 or self.step == self.began:
                    raise
                raise RuntimeError(f"{self.stop()}: {error}") from error
            finally:
                if self.keeps:
                    self.board.close()

    def earlier(self) -> dict | None:
        """Return the state of the run in the folder, None if there is no run."""
        last = self.folder / "last.pt"
        if not last.exists():
            return None
        if not self.resume:
            raise FileExistsError(
                f"{self.folder} holds a run already: resume it (resume=True, or "
                "--resume in the command line), or take another folder"
            )
        state = load_state(last)
        if missing := {"settings", *COUNTERS} - state.keys():
            raise ValueError(
                f"{last} is no state of a run, without {', '.join(sorted(missing))}: "
                "delete it and start the run again"
            )
        differing = difference(state["settings"], self.shared)
        if differing is not None:
            name, before, now = differing
            raise ValueError(
                f"the run in {self.folder} has {name} {before}, not {now}: resume it "
                "with its own settings, or take another folder"
            )
        return state

    def check(self, loss: float, name: str = "loss") -> float:
        """Return the loss of a batch, which goes to TensorBoard too."""
        super().check(loss, name)
        if name == "loss":
            self.write("train/loss", loss)
            self.write("train/lr", self.schedule.get_last_lr()[0])
        return loss

    def one_is_to_stop(self) -> bool:
        """Tell whether any of the processes was asked to stop, all alike."""
        (asked,) = processes.total(float(self.asked.is_set()))
        return asked > 0

    def end_step(self, loss: float) -> None:
        before = self.images
        super().end_step(loss)
        self.bar.update(self.images - before)
        if time.perf_counter() - self.saved > SAVE_EVERY:
            self.save()
        if self.one_is_to_stop():
            raise KeyboardInterrupt(self.stop())

    def end_epoch(self, validation: Evaluation) -> None:
        super().end_epoch(validation)
        self.write("validation/loss", validation.loss)
        self.write("validation/accuracy", validation.accuracy)
        if validation.accuracy > self.best:
            self.best = validation.accuracy
            self.keep_model()
        self.save()
        if self.one_is_to_stop():
            raise KeyboardInterrupt(self.stop())

    def tell(self, line: str) -> None:
        if self.keeps:
            self.bar.write(line)

    def save(self) -> None:
        if self.keeps:
            self.saved = time.perf_counter()
            self.seconds = self.saved - self.started
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {name: getattr(self, name) for name in COUNTERS}
            save_state(state | {"settings": self.shared}, self.folder / "last.pt")

    def keep_model(self) -> None:
        if self.keeps:
            save_model(self.model, self.folder / "best.safetensors")

    def stop(self) -> str:
        """Keep what is done; return a line that says how to go on."""
        self.save()
        if self.best < 0:
            self.keep_model()
        return (
            f"stopped after step {self.step}; resume (resume=True, or --resume in the "
            f"command line) goes on from {self.folder}"
        )

    def write(self, name: str, value: float) -> None:
        if self.board is not None:
            self.board.add_scalar(name, value, self.step)


def shared_settings(step: Step, settings: dict, setup: dict) -> dict:
    """Return what a resumed run must have in common with the one it goes on with."""
    recipe = {k: v for k, v in settings.items() if k not in NOT_COMPARED}
    recipe |= {"betas": [*settings["betas"]], "images": len(settings["data"].train)}
    config = getattr(step.model, "config", None)
    model = {"model": type(step.model).__name__}
    model |= {"config": config if isinstance(config, dict) else {}}
    return {"recipe": recipe | step.settings, "model": model, "setup": setup}


def difference(before: Any, now: Any, name: str = "settings") -> tuple | None:
    """Return (name, before, now) of the first value in which two dicts differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else (name, before, now)
    for key in [*now, *(before.keys() - now.keys())]:
        found = difference(before.get(key), now.get(key), key)
        if found is not None:
            return found
    return None


@contextmanager
def stop_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C (or SIGTERM) into an event: no step is cut in half."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set signal handlers
        return

    def note(signum, frame):
        stop.set()
        if processes.count() == 1:  # torchrun passes on several, and in the end kills
            signal.signal(signum, previous[signum])  # the second one stops at once

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
