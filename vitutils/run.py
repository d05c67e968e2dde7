"""A training run: its counters, its files, and how it stops and goes on."""

import math
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from vitutils.checkpoint import load_state, save_model, save_state

COUNTERS = (
    "step", "epoch", "batch", "images", "loss", "best", "seconds", "history"
)  # fmt: skip


class Run:
    """A run of ``fit``: what changes from step to step, and its files.

    Args:
        model, optimizer, schedule, scaler: the parts, each with a state_dict.
        folder: where the files are kept; None: nowhere.
        settings: a dict; a resumed run must have the same.
    """

    def __init__(self, model, optimizer, schedule, scaler, *, folder, settings):
        self.model = model
        self.parts = {
            "model": model,
            "optimizer": optimizer,
            "schedule": schedule,
            "scaler": scaler,
        }
        self.schedule = schedule
        self.folder = Path(folder) if folder is not None else None
        self.settings = settings
        self.step = self.epoch = self.batch = self.images = 0
        self.loss = self.seconds = 0.0
        self.best = -1.0
        self.history = []
        self.board = None

    def open(self, *, resume):
        """Take up the run in the folder, or begin one there."""
        if self.folder is not None:
            last = self.folder / "last.pt"
            if last.exists():
                self.restore(last, resume)
            # TensorBoard takes seconds to import: only runs that keep files pay.
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.folder, purge_step=self.step or None)
        self.started = time.perf_counter() - self.seconds

    def restore(self, last, resume):
        if not resume:
            raise FileExistsError(
                f"{self.folder} holds a run already: pass resume=True to go on "
                "with it, or another folder"
            )
        state = load_state(last)
        for name, value in self.settings.items():
            if state["settings"][name] != value:
                raise ValueError(
                    f"the run in {self.folder} has {name} "
                    f"{state['settings'][name]}, not {value}: resume it with its "
                    "own settings, or take another folder"
                )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name in COUNTERS:
            setattr(self, name, state[name])

    def save(self):
        if self.folder is not None:
            self.seconds = time.perf_counter() - self.started
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {name: getattr(self, name) for name in COUNTERS}
            state["settings"] = self.settings
            save_state(state, self.folder / "last.pt")

    def check_finite(self, loss):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.step + 1} (epoch "
                f"{self.epoch + 1}): try a lower lr than {self.settings['lr']}, "
                f"or a longer warmup than {self.settings['warmup']}"
            )

    def end_step(self, loss, images):
        self.write("train/loss", loss)
        self.write("train/lr", self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.step += 1
        self.batch += 1
        self.images += images
        self.loss += loss * images

    def end_epoch(self, validation):
        """Count the epoch, keep the model if it is the best; return a line."""
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.schedule.get_last_lr()[0],
            "train_loss": self.loss / self.images,
            "val_loss": validation.loss,
            "val_accuracy": validation.accuracy,
            "seconds": time.perf_counter() - self.started,
        }
        self.history.append(record)
        self.batch = self.images = 0
        self.loss = 0.0
        self.write("validation/loss", validation.loss)
        self.write("validation/accuracy", validation.accuracy)
        if self.folder is not None and validation.accuracy > self.best:
            self.best = validation.accuracy
            save_model(self.model, self.folder / "best.safetensors")
        self.save()
        return (
            f"epoch {self.epoch:3d}/{self.settings['epochs']}   "
            f"train loss {record['train_loss']:.3f}   "
            f"validation loss {record['val_loss']:.3f}   "
            f"accuracy {record['val_accuracy']:.1%}"
        )

    def interrupt(self):
        self.save()
        self.close()
        if self.folder is not None and self.best < 0:
            save_model(self.model, self.folder / "best.safetensors")
        where = f"; resume=True goes on from {self.folder}" if self.folder else ""
        raise KeyboardInterrupt(f"stopped after step {self.step}{where}")

    def write(self, name, value):
        if self.board is not None:
            self.board.add_scalar(name, value, self.step)

    def close(self):
        if self.board is not None:
            self.board.close()


@contextmanager
def stop_between_steps():
    """Turn the first Ctrl-C (or SIGTERM) into an event: no step is cut in half."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set signal handlers
        return

    def note(signum, frame):
        stop.set()
        signal.signal(signum, previous[signum])  # the second one stops at once

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
