"""Train and evaluate a model: the schedule, one step, the loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

NOT_DECAYED = ("class_token", "distill_token", "pos_embed")
NOT_DECAYED += ("cls_token", "dist_token")  # timm's names


class Evaluation(NamedTuple):
    """What a model says of a split of images.

    Attributes:
        accuracy: share of right answers, in [0, 1].
        loss: cross-entropy, a mean over the images.
        logits: (N, num_classes), fp32, on the CPU.
        labels: true classes, (N,).
    """

    accuracy: float
    loss: float
    logits: Tensor
    labels: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> "Evaluation":
        """Compare logits (N, num_classes) with labels (N,)."""
        right = logits.argmax(dim=1) == labels
        loss = F.cross_entropy(logits, labels).item()
        return cls(right.double().mean().item(), loss, logits, labels)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; in the end each module is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(model: nn.Module, split: Any, *, batch_size: int = 500) -> Evaluation:
    """Classify every image of a split once, in eval mode.

    Args:
        model: a module that turns images into logits (B, num_classes).
        split: a split of ``vitutils.data``.
        batch_size: images at a time.

    Returns:
        An ``Evaluation``; the model is left in the mode it was in.
    """
    device = next(model.parameters()).device
    logits, labels = [], []
    with eval_mode(model), torch.inference_mode():
        for images, targets in split.batches(batch_size, device=device):
            logits.append(model(images).float().cpu())
            labels.append(targets.cpu())
    return Evaluation.of(torch.cat(logits), torch.cat(labels))


def cross_entropy(
    logits: Tensor, labels: Tensor, images: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy as a ``loss_fn`` of ``fit``: the images play no part."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def default_device() -> str:
    """Return "cuda", else "mps", else "cpu": the first that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Part the parameters: weights decay; biases, norms, tokens do not.

    Args:
        model: any module.
        weight_decay: AdamW's decay for the weights.

    Returns:
        Two parameter groups for a torch optimizer.
    """
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            keep = parameter.ndim < 2 or name.endswith(NOT_DECAYED)
            (kept if keep else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, steps: int, warmup_steps: int
) -> LRScheduler:
    """Let the learning rate climb linearly, then fall along a cosine to 0.

    Args:
        optimizer: its learning rate is the peak.
        steps: optimizer steps in all; call ``scheduler.step()`` after each.
        warmup_steps: the steps of the climb.

    Returns:
        A torch scheduler.

    Raises:
        ValueError: the climb is as long as the run, or longer.

    Source: Loshchilov and Hutter (2017), equation 5, after a warm-up.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps {warmup_steps} is not in [0, {steps})")
    cosine = CosineAnnealingLR(optimizer, T_max=steps - warmup_steps)
    if warmup_steps == 0:
        return cosine
    start = 1 / (warmup_steps + 1)
    climb = LinearLR(optimizer, start_factor=start, total_iters=warmup_steps)
    return SequentialLR(optimizer, [climb, cosine], milestones=[warmup_steps])


class Step:
    """What a batch does to a model: a gradient, then an update.

    ``vitutils.engine.large_step.LargeStep`` does it for large models.

    Args:
        model: the module that learns.
        optimizer, schedule: move its parameters, and the learning rate.
        loss_fn: ``loss_fn(outputs, labels, images)``, a mean of the batch.
        clip_norm: largest norm of the gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        *,
        loss_fn: Callable,
        clip_norm: float,
    ) -> None:
        self.model, self.measured = model, model
        self.optimizer, self.schedule = optimizer, schedule
        self.loss_fn, self.clip_norm = loss_fn, clip_norm
        groups = optimizer.param_groups
        self.parameters = [p for group in groups for p in group["params"]]
        self.settings = {}  # of its own, which a resumed run must share

    def batches(self, split: Any, batch_size: int, **order) -> Iterable:
        """Return the batches of an epoch, each (images, labels)."""
        return split.batches(batch_size, **order)

    def gradient(self, images: Tensor, labels: Tensor) -> float:
        """Compute the loss and its gradient; return the loss, a number."""
        loss = self.loss_fn(self.model(images), labels, images)
        self.optimizer.zero_grad()
        loss.backward()
        return loss.item()

    def update(self) -> float:
        """Step down the clipped gradient; return its norm before that."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return norm.item()

    def validate(self, split: Any) -> Evaluation:
        """Return an ``Evaluation`` of the model."""
        return evaluate(self.measured, split)

    def finish(self) -> None:
        """Leave in the model what was measured: it is there already."""

    def stateful(self) -> dict[str, Any]:
        """Return by name what has a state that a resumed run needs."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }


class Run:
    """What a run of ``fit`` remembers: how far it is, and its history.

    ``vitutils.engine.folder_run.FolderRun`` keeps that in a folder, and more.
    """

    over = False  # True ends it after fewer epochs than asked for

    def __init__(self):
        self.step = self.epoch = self.batch = self.images = 0
        self.loss = self.seconds = self.stepping = self.waiting = 0.0
        self.started = None  # in seconds of time.perf_counter
        self.history = []

    @contextmanager
    def open(self, step: Step, settings: dict) -> Iterator[None]:
        """Begin the run: ``settings`` are the arguments of ``fit`` by name."""
        if self.started is not None:
            raise ValueError("this run has been begun already: take a new one")
        self.schedule, self.settings = step.schedule, settings
        self.started = time.perf_counter() - self.seconds
        yield

    def timed(self, batches: Iterable) -> Iterator:
        """Yield batches; count the seconds of waiting for them."""
        batches, done = iter(batches), object()
        self.since = time.perf_counter()  # the end of the last step
        while True:
            asked = time.perf_counter()
            batch = next(batches, done)
            self.waiting += time.perf_counter() - asked
            if batch is done:
                return
            yield batch

    def check(self, loss: float, name: str = "loss") -> float:
        """Return the loss of a batch, or raise an error that names the step."""
        if not math.isfinite(loss):
            step = self.step + (name != "validation loss")
            raise FloatingPointError(
                f"the {name} is {loss} at step {step} (epoch {self.epoch + 1}): try "
                f"a lower lr than {self.settings['lr']}, or a longer warmup than "
                f"{self.settings['warmup']}"
            )
        return loss

    def end_step(self, loss: float) -> None:
        """Count a step, and its seconds."""
        now = time.perf_counter()
        self.stepping += now - self.since
        self.since = now
        left = len(self.settings["data"].train) - self.images
        images = min(self.settings["batch_size"], left)
        self.step += 1
        self.batch += 1
        self.images += images
        self.loss += loss * images

    def end_epoch(self, validation: Evaluation) -> None:
        """Count an epoch, and tell of it."""
        self.check(validation.loss, name="validation loss")
        self.epoch += 1
        row = {
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
        self.history.append(row)
        self.batch = self.images = 0
        self.loss = self.stepping = self.waiting = 0.0
        if self.settings["progress"]:
            self.tell(
                f"epoch {self.epoch:3d}/{self.settings['epochs']}   "
                f"train loss {row['train_loss']:.3f}   "
                f"validation loss {row['val_loss']:.3f}   "
                f"accuracy {row['val_accuracy']:.1%}"
            )

    def tell(self, line: str) -> None:
        print(line)


def fit(
    model: nn.Module,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: float = 0.1,
    clip_norm: float = 1.0,
    label_smoothing: float = 0.0,
    loss_fn: Callable | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    groups: Callable[..., list[dict]] = parameter_groups,
    step: Callable[..., Step] = Step,
    run: Run | None = None,
) -> list[dict]:
    """Train a model with AdamW: linear warm-up, then a cosine down to zero.

    Args:
        model: any module that turns images (B, C, H, W) into what
            ``loss_fn`` takes; in eval mode into logits (B, num_classes).
        data: what ``vitutils.data.load`` returns: splits train, validation.
        epochs: passes over the training images.
        batch_size: images a step, of all processes together.
        lr: peak learning rate, a step.
        weight_decay: of AdamW, on weights; none on biases, norms, tokens.
        betas: AdamW's running-mean factors.
        warmup: share of the steps in which the rate climbs, in [0, 1).
        clip_norm: largest norm of the gradient; inf: no limit.
        label_smoothing: of the default loss, in [0, 1).
        loss_fn: ``loss_fn(outputs, labels, images)``, a mean over the
            batch; None: cross-entropy with ``label_smoothing``.
        seed: of order, crops and dropout; not of the initial weights.
        device: a torch device; None: CUDA, else MPS, else the CPU.
        progress: print a line an epoch.
        groups: parts the parameters, as ``parameter_groups`` does.
        step: makes the step, as ``Step`` does.
        run: remembers how far it is; None: a new ``Run``, in memory.

    Returns:
        A dict an epoch: epoch, step, lr, train_loss, val_loss, val_accuracy
        in [0, 1], seconds of training so far, images_per_second, and the
        share of the time that the device was waiting for images.

    Raises:
        ValueError: settings out of range, or other than the resumed run's.
        FloatingPointError: the loss is not finite; names the step.

    Source: the recipe of Dosovitskiy et al. (2021), section 4.1, with the
    AdamW of Touvron et al. (2021), table 9.
    """
    settings = dict(locals())  # a run that is resumed must have the same
    check_settings(settings)
    smooth = partial(cross_entropy, label_smoothing=label_smoothing)
    device = torch.device(device or default_device())
    model.to(device)
    steps = epochs * data.train.num_batches(batch_size)
    optimizer = torch.optim.AdamW(
        groups(model, weight_decay),
        lr=lr,
        betas=betas,
        fused=device.type in ("cpu", "cuda"),
    )
    schedule = warmup_cosine(
        optimizer, steps=steps, warmup_steps=min(round(warmup * steps), steps - 1)
    )
    run = run or Run()
    step = step(
        model, optimizer, schedule, loss_fn=loss_fn or smooth, clip_norm=clip_norm
    )
    with random_state_kept(device), run.open(step, settings):
        while run.epoch < epochs and not run.over:
            model.train()
            order = {"seed": seed, "epoch": run.epoch, "start": run.batch}
            batches = step.batches(data.train, batch_size, **order, device=device)
            for batch in run.timed(batches):
                torch.manual_seed(seed * 1_000_003 + run.step)  # of dropout
                loss = run.check(step.gradient(*batch))
                run.check(step.update(), "gradient")
                run.end_step(loss)
            run.end_epoch(step.validate(data.validation))
        step.finish()
    return run.history


def check_settings(settings: dict) -> None:
    """Raise a ValueError that names the argument of ``fit`` that is out of range."""
    for name in ("epochs", "batch_size", "lr", "clip_norm"):
        if not settings[name] > 0:
            raise ValueError(f"{name} is {settings[name]}, expected more than 0")
    if not settings["weight_decay"] >= 0:
        raise ValueError(
            f"weight_decay is {settings['weight_decay']}, expected 0 or more"
        )
    for name in ("warmup", "label_smoothing"):
        if not 0 <= settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}, expected 0 <= {name} < 1")
    if not 0 <= settings["seed"] < 2**32:
        raise ValueError(f"seed is {settings['seed']}, expected 0 <= seed < 2**32")


def random_state_kept(device: torch.device) -> Any:
    """Give the caller torch's random state back as it was, whatever is seeded."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
