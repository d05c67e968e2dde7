"""Train and evaluate a model: recipe, schedule, mixed precision, the loop."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from tqdm import tqdm

from vitutils.run import Run, stop_between_steps

NOT_DECAYED = ("class_token", "distill_token", "pos_embed")


def fit(
    model,
    data,
    *,
    epochs,
    batch_size=128,
    lr=1e-3,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    warmup=0.1,
    clip_norm=1.0,
    label_smoothing=0.0,
    loss_fn=None,
    precision="auto",
    seed=0,
    folder=None,
    resume=False,
    device=None,
    progress=True,
):
    """Train a model with AdamW: linear warm-up, then a cosine down to zero.

    Args:
        model: any module that turns images (B, C, H, W) into what
            ``loss_fn`` takes; in eval mode into logits (B, num_classes).
        data: what ``vitutils.data.load`` returns: splits train, validation.
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate, a step.
        weight_decay: of AdamW, on weights; none on biases, norms, tokens.
        betas: AdamW's running-mean factors.
        warmup: share of the steps in which the rate climbs, in [0, 1).
        clip_norm: largest norm of the gradient; ``math.inf``: no limit.
        label_smoothing: of the default loss, in [0, 1).
        loss_fn: ``loss_fn(outputs, labels, images)``, a mean over the
            batch; None: cross-entropy with ``label_smoothing``.
        precision: "fp32", "bf16", "fp16", or "auto": mixed where it helps.
        seed: of order, crops and dropout; not of the initial weights.
        folder: keeps ``best.safetensors`` (by validation accuracy),
            ``last.pt`` (to resume from) and TensorBoard's files; None:
            keep nothing.
        resume: go on with the run in ``folder`` if there is one.
        device: a torch device; None: CUDA, else MPS, else the CPU.
        progress: print a line an epoch, and in a terminal show a bar.

    Returns:
        A dict an epoch: epoch, step, lr, train_loss, val_loss, val_accuracy
        in [0, 1], and seconds of training so far.

    Raises:
        ValueError: settings out of range, or other than the resumed run's.
        FileExistsError: ``folder`` holds a run and ``resume`` is False.
        FloatingPointError: the loss is not finite; names the step.
        KeyboardInterrupt: after Ctrl-C, when the step is done and saved.

    Source: the recipe of Dosovitskiy et al. (2021), section 4.1, with the
    AdamW of Touvron et al. (2021), table 9.
    """
    settings = check_settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        betas=list(betas),
        warmup=warmup,
        clip_norm=clip_norm,
        label_smoothing=label_smoothing,
        precision=precision,
        seed=seed,
    )
    if loss_fn is None:
        loss_fn = partial(cross_entropy, label_smoothing=label_smoothing)
    device = torch.device(device or default_device())
    model.to(device)
    steps = epochs * data.train.num_batches(batch_size)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, weight_decay),
        lr=lr,
        betas=betas,
        fused=device.type in ("cpu", "cuda"),
    )
    schedule = warmup_cosine(
        optimizer, steps=steps, warmup_steps=round(warmup * steps)
    )
    amp = MixedPrecision(precision, device)
    run = Run(
        model,
        optimizer,
        schedule,
        amp.scaler,
        folder=folder,
        settings=settings,
    )
    run.open(resume=resume)

    hidden = None if progress else True  # None: in terminals only
    bar = tqdm(
        total=steps,
        initial=run.step,
        leave=False,
        unit="step",
        disable=hidden,
    )
    with stop_between_steps() as stop, bar:
        while run.epoch < epochs:
            model.train()
            for images, labels in data.train.batches(
                batch_size,
                seed=seed,
                epoch=run.epoch,
                start=run.batch,
                device=device,
            ):
                # Dropout draws by (seed, step): a resumed run repeats it.
                torch.manual_seed(seed * 1_000_003 + run.step)
                with amp.autocast():
                    loss = loss_fn(model(images), labels, images)
                run.check_finite(loss.item())
                amp.update(loss, optimizer, clip_norm)
                run.end_step(loss.item(), len(labels))
                bar.update()
                if stop.is_set():
                    run.interrupt()
            line = run.end_epoch(
                evaluate(model, data.validation, precision=precision)
            )
            if progress:
                bar.write(line)
    run.close()
    return run.history


def check_settings(**settings):
    """Return the settings, or raise a ValueError that names the wrong one."""
    for name in ("epochs", "batch_size", "lr", "clip_norm"):
        if not settings[name] > 0:
            raise ValueError(f"{name} is {settings[name]}, expected more than 0")
    for name in ("warmup", "label_smoothing"):
        if not 0 <= settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}, expected 0 <= {name} < 1")
    return settings


def cross_entropy(logits, labels, images, *, label_smoothing=0.0):
    """Cross-entropy as a ``loss_fn`` of ``fit``: the images play no part."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def default_device():
    """Return "cuda", else "mps", else "cpu": the first that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def parameter_groups(model, weight_decay):
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


def warmup_cosine(optimizer, *, steps, warmup_steps):
    """Let the learning rate climb linearly, then fall along a cosine to 0.

    Args:
        optimizer: its learning rate is the peak.
        steps: optimizer steps in all; call ``scheduler.step()`` after each.
        warmup_steps: the steps of the climb.

    Returns:
        A torch scheduler.

    Source: Loshchilov and Hutter (2017), equation 5, after a warm-up.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps {warmup_steps} is not in [0, {steps})"
        )
    cosine = CosineAnnealingLR(optimizer, T_max=steps - warmup_steps)
    if warmup_steps == 0:
        return cosine
    climb = LinearLR(
        optimizer,
        start_factor=1 / (warmup_steps + 1),
        total_iters=warmup_steps,
    )
    return SequentialLR(
        optimizer, [climb, cosine], milestones=[warmup_steps]
    )


class MixedPrecision:
    """Compute in bf16 or fp16 where that pays; keep weights in fp32.

    "auto" takes bf16 on CUDA from the Ampere generation on, fp16 with loss
    scaling on older CUDA devices, and fp32 elsewhere.
    """

    def __init__(self, precision, device):
        if precision == "auto":
            precision = "fp32"
            if device.type == "cuda":
                ampere = torch.cuda.get_device_capability(device) >= (8, 0)
                precision = "bf16" if ampere else "fp16"
        dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        if precision not in dtypes:
            raise ValueError(
                f"precision is {precision!r}, expected 'auto' or one of {[*dtypes]}"
            )
        self.device, self.dtype = device, dtypes[precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self):
        return torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype is not None
        )

    def update(self, loss, optimizer, clip_norm):
        """Step down the gradient of ``loss``, clipped to ``clip_norm``."""
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()


class Evaluation(NamedTuple):
    """What a model says of a split: accuracy in [0, 1], mean loss, all logits."""

    accuracy: float
    loss: float
    logits: torch.Tensor
    labels: torch.Tensor


def evaluate(model, split, *, batch_size=500, precision="auto"):
    """Classify every image of a split once, in eval mode.

    Args:
        model: a module that turns images into logits (B, num_classes).
        split: a split of ``vitutils.data``.
        batch_size: images at a time.
        precision: as in ``fit``.

    Returns:
        An ``Evaluation``: accuracy and cross-entropy are means over images,
        logits (len(split), num_classes) are fp32 on the CPU.
    """
    device = next(model.parameters()).device
    amp = MixedPrecision(precision, device)
    training = model.training
    model.eval()
    logits, labels = [], []
    try:
        with torch.inference_mode(), amp.autocast():
            for images, targets in split.batches(batch_size, device=device):
                logits.append(model(images).float().cpu())
                labels.append(targets.cpu())
    finally:
        model.train(training)
    logits, labels = torch.cat(logits), torch.cat(labels)
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    loss = F.cross_entropy(logits, labels).item()
    return Evaluation(accuracy, loss, logits, labels)
