"""A run that is kept in a folder: how it stops, goes on, and shows what it does."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from vitutils import processes
from vitutils.engine.checkpoints import (
    check_weights_of,
    in_utf8,
    load_state,
    plain,
    save_model,
    save_state,
)
from vitutils.engine.curves import Curves
from vitutils.engine.strangers import shown
from vitutils.train import Evaluation, Run, Step

COUNTERS = ("step", "epoch", "batch", "images", "loss", "best", "seconds", "stepping")
COUNTERS += ("waiting", "history")
TIMES = ("seconds", "stepping", "waiting")
ROW = ("epoch", "train_loss", "val_loss", "val_accuracy", "seconds")
ROW += ("images_per_second", "waiting")  # numbers of an epoch that are read again
FILES = ("last.pt", "best.safetensors", "result.json")
NOT_COMPARED = {"model", "data", "loss_fn", "device", "progress", "groups", "step"}
NOT_COMPARED |= {"run"}
MOST = 8  # differences that are named
SAVE_EVERY = 600  # seconds, where an epoch takes longer


class FolderRun(Run):
    """A run of ``fit`` that keeps its files in a folder.

    The folder gets the best model by validation accuracy, of equal ones that of the
    lower loss (``best.safetensors``; before the first validation, the model as it is),
    the state to resume from (``last.pt``, after the first step, each epoch and every
    ten minutes), and TensorBoard's curves. Where several processes train, the first one
    keeps the files. Ctrl-C, or SIGTERM, ends the run when the step is done and saved; a
    second Ctrl-C ends it at once. The folder is locked (``.lock``) while ``fit`` is at
    work: one run at a time may use it.

    Args:
        folder: of this run.
        resume: go on with the run in the folder, if there is one.
        patience: end the run when so many epochs in a row were no better than the best
            one before; None: never. A resumed run may have
            another.
        setup: plain values by name that a resumed run must share too. Arguments of
            ``fit``, images and labels are compared anyway; what no value tells is not,
            as a loss, an augmentation or a model's code: name those here.
        expected: what ``fit`` will compare, as far as it is known before, to be
            compared at once: dicts of plain values, as in ``shared_settings``.
        arguments: words kept with the run, for who resumes it.

    Raises:
        FileExistsError: the folder holds files of a run, and ``resume`` is False; or
            another run is at work in it.
        ValueError: the run in the folder has other settings or data, or is not whole;
            or the processes have different ones.
        KeyboardInterrupt: after Ctrl-C, when the step is done and saved.
        RuntimeError: another process has died; what is done is saved.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume: bool = False,
        patience: int | None = None,
        setup: dict | None = None,
        expected: dict[str, dict] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}, expected 1 or more")
        self.patience = patience
        self.folder, self.resume, self.setup = (
            Path(folder).absolute(),
            resume,
            setup or {},
        )
        self.expected, self.arguments = expected or {}, [*arguments]
        self.keeps = processes.rank() == 0
        self.best = -1.0
        self.lock, self.state = FileLock(self.folder / ".lock", timeout=0), None

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep other runs out of the folder, and see what it holds.

        ``fit`` does so too; who goes on using the folder after it does it around it.
        """
        try:
            processes.ask_first(self.claim)
            yield
        finally:
            if self.lock.is_locked:
                lock = self.folder / ".lock"
                if [*self.folder.glob("*")] == [lock]:  # the run has not begun
                    with suppress(OSError):
                        lock.unlink()
                        for folder in self.made:
                            folder.rmdir()
                self.lock.release()

    def claim(self) -> None:
        """Lock the folder and read the state of its run, unless that is done."""
        if self.lock.is_locked:
            self.lock.acquire()
            return
        in_utf8(self.folder)
        above = [self.folder, *self.folder.parents]
        self.made = [folder for folder in above if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire()
        except Timeout:
            raise FileExistsError(
                f"another run is at work in {self.folder}: wait for its end, or take "
                "another folder"
            ) from None
        self.state = self.earlier()

    def earlier(self) -> dict | None:
        """Return the state of the run in the folder, None if there is no run."""
        held = [name for name in FILES if (self.folder / name).exists()]
        if not held:
            return None
        last = self.folder / "last.pt"
        if not last.exists():
            raise FileExistsError(
                f"{self.folder} holds {' and '.join(held)} of a run, but not last.pt, "
                "from which it could go on: take another folder"
            )
        if not self.resume:
            raise FileExistsError(
                f"{self.folder} holds a run already: resume it (resume=True, or "
                "--resume in the command line), or take another folder"
            )
        state = load_state(last)
        kinds = {name: type(getattr(self, name)) for name in COUNTERS}
        kinds["settings"] = dict
        wrong = [k for k, kind in kinds.items() if type(state.get(k)) is not kind]
        self.doubt(wrong or [k for k, right in sense(state).items() if not right])
        best = self.folder / "best.safetensors"
        if state["best"] >= 0 and not best.is_file():
            raise ValueError(
                f"{best} is gone, the best model of the run so "
                "far: put it back, or take another folder"
            )
        expected = plain(self.expected | {"setup": self.setup})
        self.compare(narrowed(state["settings"], expected), expected)
        return state

    def doubt(self, wrong: Sequence[str]) -> None:
        """Raise a ValueError if parts of the state in the folder are wrong."""
        if wrong:
            raise ValueError(
                f"{self.folder}/last.pt is no state of a run (see its "
                f"{', '.join(wrong)}): take another folder"
            )

    def compare(self, before: dict, now: dict) -> None:
        """Raise a ValueError unless the run in the folder is of these settings."""
        if found := differences(before, now):
            found = [["none" if v is None else shown(v) for v in row] for row in found]
            words = [f"{name} {then}, not {now}" for name, then, now in found]
            more = f"; and {len(words) - MOST} more" if len(words) > MOST else ""
            raise ValueError(
                f"the run in {self.folder} has {'; '.join(words[:MOST])}{more}: resume "
                "it with its own settings, or take another folder"
            )

    @property
    def over(self) -> bool:
        """Whether ``patience`` epochs have brought no better model."""
        found = [*map(rank, self.history)]
        since = len(found) - 1 - found.index(max(found)) if found else 0
        return self.patience is not None and since >= self.patience

    @contextmanager
    def open(self, step: Step, settings: dict) -> Iterator[None]:
        """Take up the run in the folder, or begin one there."""
        with self.owned():
            self.take_up(step, settings)
            with super().open(step, settings), self.watched(settings):
                yield

    def take_up(self, step: Step, settings: dict) -> None:
        """Give the parts of the step the state that the folder holds, if any."""
        self.parts, self.model = step.stateful(), step.measured
        about = ("preprocessing", "held_out")
        self.about = [getattr(settings["data"], name, None) for name in about]
        self.shared = shared_settings(step, settings, self.setup)
        # Not shared with a run that is resumed, but all are to end with one epoch.
        processes.expect_same(self.shared | {"patience": self.patience})
        state = processes.ask_first(lambda: self.state)
        if state is None:
            return
        self.compare(state["settings"], self.shared)
        split, size = settings["data"].train, settings["batch_size"]
        epochs, batches = settings["epochs"], split.num_batches(size)
        epoch, batch = state["epoch"], state["batch"]
        right = {
            "epoch": epoch < epochs or (epoch, batch) == (epochs, 0),
            "batch": 0 <= batch <= batches,
            "step": state["step"] == epoch * batches + batch,
            "images": state["images"] == min(batch * size, len(split)),
        }
        self.doubt([name for name, fits in right.items() if not fits])
        try:
            for name, part in self.parts.items():
                if state[name].keys() != part.state_dict().keys():
                    raise ValueError("it has other names")
                part.load_state_dict(state[name])
            name = "state"
            check_loaded(step, state["step"])
        except Exception as error:  # each part raises its own kinds
            raise ValueError(
                f"{self.folder}/last.pt does not fit the run ({name}: {error}): take "
                "another folder"
            ) from error
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.state = None  # it may be large
        if self.best >= 0:
            processes.ask_first(self.check_best)

    def check_best(self) -> None:
        """Raise a ValueError unless the best model can be measured in the end."""
        path = self.folder / "best.safetensors"
        try:
            check_weights_of(self.model, path)
        except ValueError as error:
            raise ValueError(
                f"{path} is not the best model of the run so far ({error}): put it "
                "back, or take another folder"
            ) from error

    @contextmanager
    def watched(self, settings: dict) -> Iterator[None]:
        """Show how far the run is, and let it be stopped."""
        self.curves = Curves(self.folder, since=self.step) if self.keeps else None
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
        began = self.step
        # The first step is saved: a best model without a state could not go on.
        self.saved = time.perf_counter() if began else -math.inf
        with stop_between_steps() as self.asked, self.bar:
            try:
                yield
            except RuntimeError as error:
                if processes.count() == 1 or self.step == began:
                    raise
                raise RuntimeError(f"{self.stop()}: {error}") from error
            finally:
                if self.keeps:
                    self.curves.close()

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
        latest, *earlier = map(rank, reversed(self.history))
        if all(latest > row for row in earlier):
            self.best = validation.accuracy
            self.keep_model()
        self.save()
        if self.over and self.epoch < self.settings["epochs"]:
            self.tell(f"no better in {self.patience} epochs: the run ends")
        if self.one_is_to_stop():
            raise KeyboardInterrupt(self.stop())

    def tell(self, line: str) -> None:
        if self.keeps:
            with suppress(OSError):  # who reads may be gone: that is told in the end
                self.bar.write(line)

    def save(self) -> None:
        if self.keeps:
            self.saved = time.perf_counter()
            self.seconds = self.saved - self.started
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {name: getattr(self, name) for name in COUNTERS}
            state |= {"settings": self.shared, "arguments": self.arguments}
            save_state(state, self.folder / "last.pt")

    def keep_model(self) -> None:
        if self.keeps:
            path = self.folder / "best.safetensors"
            save_model(self.model, path, *self.about)

    def stop(self) -> str:
        """Keep what is done; return a line that says how to go on."""
        self.save()
        if self.best < 0:
            self.keep_model()
        kept = "" if self.keeps else "what the first process has saved in "
        return (
            f"stopped after step {self.step}; resume (resume=True, or --resume in the "
            f"command line) goes on from {kept}{self.folder}"
        )

    def write(self, name: str, value: float) -> None:
        if self.keeps:
            self.curves.add(name, value, self.step)


def narrowed(settings: Any, names: Any) -> Any:
    """Return those of settings that have the names of others, dict by dict."""
    if not isinstance(names, dict):
        return settings
    held = settings if isinstance(settings, dict) else {}
    return {name: narrowed(held.get(name), names[name]) for name in names}


def differences(before: Any, now: Any, name: str = "settings") -> list[tuple]:
    """Return (name, before, now) of all values in which two dicts differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [(name, before, now)]
    names = [*now, *(before.keys() - now.keys())]
    return [f for k in names for f in differences(before.get(k), now.get(k), k)]


def sense(state: dict) -> dict[str, bool]:
    """Tell of counters whether they may be a run's, whatever its settings."""
    rows = state["history"]
    if not all(map(is_row, rows)):
        return {"history": False}
    return {
        "epoch": state["epoch"] == len(rows),
        "history": [row["epoch"] for row in rows] == [*range(1, len(rows) + 1)],
        "best": state["best"] == max([row["val_accuracy"] for row in rows], default=-1),
        "loss": abs(state["loss"]) < math.inf,
        **{name: 0 <= state[name] < math.inf for name in TIMES},
    }


def is_row(row: Any) -> bool:
    """Tell whether this may be what ``Run.end_epoch`` notes of an epoch."""
    return (
        isinstance(row, dict)
        and row.keys() >= {*ROW}
        and all(type(v) in (int, float) and abs(v) < math.inf for v in row.values())
    )


def check_loaded(step: Step, done: int) -> None:
    """Raise a ValueError if parts of a step have loaded what they cannot go on with.

    torch looks at it late or never: means of other shapes make AdamW read memory that
    is not theirs.

    Args:
        step: its parts have been loaded.
        done: how many there have been.
    """
    schedule, optimizer = step.schedule, step.optimizer
    rates = [group["lr"] for group in optimizer.param_groups]
    if (schedule.last_epoch, schedule.get_last_lr()) != (done, rates):
        raise ValueError("the schedule is of another step")
    for parameter, kept in optimizer.state.items():
        shapes = {name: value.shape for name, value in kept.items()}
        means = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter.shape)
        # In fp16 it counts no step whose gradient was too large, maybe none at all.
        if shapes != means | {"step": torch.Size()} or not 0 <= kept["step"] <= done:
            raise ValueError("the optimizer is of another model or step")
        if not (kept["exp_avg"].isfinite().all() and (kept["exp_avg_sq"] >= 0).all()):
            raise ValueError("the optimizer has NaN")
    for value in step.model.state_dict().values():
        if not value.isfinite().all():
            raise ValueError("the model has NaN")


def rank(row: dict) -> tuple[float, float]:
    """Return what is larger for the better of two epochs."""
    return row["val_accuracy"], -row["val_loss"]


def shared_settings(step: Step, settings: dict, setup: dict) -> dict:
    """Return what a resumed run must have in common with the one it goes on with."""
    data = settings["data"]
    recipe = {k: v for k, v in settings.items() if k not in NOT_COMPARED}
    recipe |= {"betas": [*settings["betas"]], "images": len(data.train)}
    config = getattr(step.model, "config", None)
    model = {"model": type(step.model).__name__}
    model |= {"config": config if isinstance(config, dict) else {}}
    learning = [name for name, p in step.model.named_parameters() if p.requires_grad]
    model |= {"learning parameters": sha256(repr(learning).encode()).hexdigest()[:16]}
    contents = {
        "classes": [*getattr(data, "classes", ())],
        "training images": data.train.digest(),
        "validation images": data.validation.digest(),
    }
    return plain(
        {
            "recipe": recipe | step.settings,
            "model": model,
            "data": contents,
            "setup": setup,
        }
    )


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
