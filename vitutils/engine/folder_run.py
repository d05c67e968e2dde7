"""A training run: its counters, its files, and how it stops and goes on."""

import math
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from vitutils import processes
from vitutils.engine.checkpoints import load_state, save_model, save_state

COUNTERS = (
    "step",
    "epoch",
    "batch",
    "images",
    "loss",
    "best",
    "seconds",
    "stepping",
    "waiting",
    "history",
)
SAVE_EVERY = 600  # seconds, where an epoch takes longer


class Run:
    """A run of ``fit``: what changes from step to step, and its files.

    Where several processes train, all count and the first one keeps the files.

    Args:
        parts: a dict of what has a state_dict, "schedule" among them.
        model: the one of them that is measured, and kept if it is the best.
        folder: where the files are kept; None: nowhere.
        settings: a dict; a resumed run must have the same.
    """

    def __init__(self, parts, *, model, folder, settings):
        self.parts = parts
        self.model = model
        self.schedule = parts["schedule"]
        self.folder = Path(folder) if folder is not None else None
        self.keeps = folder is not None and processes.rank() == 0
        self.settings = settings
        self.step = self.epoch = self.batch = self.images = 0
        self.loss = self.seconds = self.stepping = self.waiting = 0.0
        self.best = -1.0
        self.history = []
        self.board = None

    def open(self, *, resume):
        """Take up the run in the folder, or begin one there."""
        if self.folder is not None:
            state = processes.ask_first(self.earlier, resume)
            if state is not None:
                self.restore(state)
        if self.keeps:
            # TensorBoard takes seconds to import: only runs that keep files pay.
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.folder, purge_step=self.step or None)
        self.saved = time.perf_counter()
        self.started = self.saved - self.seconds
        self.began = self.step

    def earlier(self, resume):
        """Return the state of the run in the folder, None if there is no run."""
        last = self.folder / "last.pt"
        if not last.exists():
            return None
        if not resume:
            raise FileExistsError(
                f"{self.folder} holds a run already: pass resume=True to go on "
                "with it, or another folder"
            )
        state = load_state(last)
        if missing := {"settings", *COUNTERS} - state.keys():
            raise ValueError(
                f"{last} is no state of a run, without {', '.join(sorted(missing))}: "
                "delete it and start the run again"
            )
        before, now = state["settings"], self.settings
        for name in [*now, *(before.keys() - now.keys())]:
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"the run in {self.folder} has {name} {before.get(name)}, not "
                    f"{now.get(name)}: resume it with its own settings, or take "
                    "another folder"
                )
        return state

    def restore(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name in COUNTERS:
            setattr(self, name, state[name])

    def save(self):
        if self.keeps:
            self.saved = time.perf_counter()
            self.seconds = self.saved - self.started
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {name: getattr(self, name) for name in COUNTERS}
            state["settings"] = self.settings
            save_state(state, self.folder / "last.pt")

    def timed(self, batches):
        """Yield batches; count the seconds that steps take, and wait for batches."""
        batches = iter(batches)
        done = object()
        start = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, done)
            self.waiting += time.perf_counter() - asked
            if batch is done:
                return
            yield batch
            now = time.perf_counter()
            self.stepping += now - start
            start = now

    def check_finite(self, loss, *, step, name="loss"):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the {name} is {loss} at step {step} (epoch {self.epoch + 1}): try a "
                f"lower lr than {self.settings['lr']}, or a longer warmup than "
                f"{self.settings['warmup']}"
            )

    def end_step(self, loss, images):
        self.write("train/loss", loss)
        self.write("train/lr", self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.step += 1
        self.batch += 1
        self.images += images
        self.loss += loss * images
        if time.perf_counter() - self.saved > SAVE_EVERY:
            self.save()

    def end_epoch(self, validation):
        """Count the epoch, keep the model if it is the best; return a line."""
        self.check_finite(validation.loss, step=self.step, name="validation loss")
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.schedule.get_last_lr()[0],
            "train_loss": self.loss / self.images,
            "val_loss": validation.loss,
            "val_accuracy": validation.accuracy,
            "seconds": time.perf_counter() - self.started,
            "images_per_second": self.images / max(self.stepping, 1e-9),
            "waiting": self.waiting / max(self.stepping, 1e-9),
        }
        self.history.append(record)
        self.batch = self.images = 0
        self.loss = self.stepping = self.waiting = 0.0
        self.write("validation/loss", validation.loss)
        self.write("validation/accuracy", validation.accuracy)
        if validation.accuracy > self.best:
            self.best = validation.accuracy
            self.keep_model()
        self.save()
        return (
            f"epoch {self.epoch:3d}/{self.settings['epochs']}   "
            f"train loss {record['train_loss']:.3f}   "
            f"validation loss {record['val_loss']:.3f}   "
            f"accuracy {record['val_accuracy']:.1%}"
        )

    def keep_model(self):
        if self.keeps:
            save_model(self.model, self.folder / "best.safetensors")

    def interrupt(self):
        raise KeyboardInterrupt(self.stop())

    def stop(self):
        """Keep what is done; return a line that says where."""
        self.save()
        self.close()
        if self.best < 0:
            self.keep_model()
        where = f"; resume=True goes on from {self.folder}" if self.folder else ""
        return f"stopped after step {self.step}{where}"

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
        if processes.count() == 1:  # torchrun passes on several, and in the end kills
            signal.signal(signum, previous[signum])  # the second one stops at once

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    ending = False
    try:
        yield stop
    except BaseException:
        ending = processes.count() > 1  # torchrun's signal is not to cut the message
        raise
    finally:
        if not ending:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


@contextmanager
def keep_if_others_die(run):
    """Save a run of several processes when one of them is gone, and say so."""
    try:
        yield
    except RuntimeError as error:
        if processes.count() == 1 or run.step == run.began:
            raise
        raise RuntimeError(f"{run.stop()}: {error}") from error
