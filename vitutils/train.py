"""Train and evaluate a model: recipe, schedule, mixed precision, the loop.

As a command, ``python -m vitutils.train --help``: see ``vitutils.command``.
"""

from functools import partial
from itertools import cycle
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vitutils import processes
from vitutils.engine.folder_run import Run, keep_if_others_die, stop_between_steps

NOT_DECAYED = ("class_token", "distill_token", "pos_embed")
NOT_DECAYED += ("cls_token", "dist_token")  # timm's names


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
    mix=None,
    average=0.0,
    accumulate=1,
    precision="auto",
    seed=0,
    folder=None,
    resume=False,
    setup=None,
    device=None,
    progress=True,
):
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
        clip_norm: largest norm of the gradient; ``math.inf``: no limit.
        label_smoothing: of the default loss, in [0, 1).
        loss_fn: ``loss_fn(outputs, labels, images)``, a mean over the
            batch; None: cross-entropy with ``label_smoothing``.
        mix: ``mix(images, labels)``, as ``vitutils.augment.mixing`` makes;
            None: each image has one label.
        average: decay of an exponential moving average of the weights, in
            [0, 1). It is what is evaluated, kept, and left in the model; 0:
            the weights themselves are.
        accumulate: parts in which each process computes its gradient.
        precision: "fp32", "bf16", "fp16", or "auto": mixed where it helps.
        seed: of order, crops and dropout; not of the initial weights.
        folder: keeps ``best.safetensors`` (by validation accuracy),
            ``last.pt`` (to resume from) and TensorBoard's files; None:
            keep nothing.
        resume: go on with the run in ``folder`` if there is one.
        setup: a dict of plain values that a resumed run must share too, as
            the names of what ``data`` and ``loss_fn`` were made from.
        device: a torch device; None: CUDA, else MPS, else the CPU.
        progress: print a line an epoch, and in a terminal show a bar.

    Returns:
        A dict an epoch: epoch, step, lr, train_loss, val_loss, val_accuracy
        in [0, 1], seconds of training so far, images_per_second, and the
        share of the time that the device was waiting for images.

    Raises:
        ValueError: settings out of range, or other than the resumed run's.
        FileExistsError: ``folder`` holds a run and ``resume`` is False.
        FloatingPointError: the loss is not finite; names the step.
        KeyboardInterrupt: after Ctrl-C, when the step is done and saved.
        RuntimeError: another process has died; what is done is saved.

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
        average=average,
        accumulate=accumulate,
        precision=precision,
        seed=seed,
    )
    del settings["accumulate"]  # other machines may need other parts
    settings |= {"images": len(data.train), "model": type(model).__name__}
    settings |= getattr(model, "config", {}) | (setup or {})
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
        optimizer, steps=steps, warmup_steps=min(round(warmup * steps), steps - 1)
    )
    amp = MixedPrecision(precision, device)
    parts = {
        "model": model,
        "optimizer": optimizer,
        "schedule": schedule,
        "scaler": amp.scaler,
    }
    measured = model
    if average:
        parts["average"] = AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True
        )
        measured = parts["average"].module
    run = Run(parts, model=measured, folder=folder, settings=settings)
    run.open(resume=resume)
    net = processes.replicate(model)
    world = processes.count()
    first = accumulate * processes.rank()
    mine = range(first, first + accumulate)  # my parts of each batch

    hidden = None if progress else True  # None: in terminals only
    bar = tqdm(
        total=epochs * len(data.train),
        initial=run.epoch * len(data.train) + run.images,
        leave=False,
        unit=" images",
        unit_scale=True,
        disable=hidden if processes.rank() == 0 else True,
    )
    with stop_between_steps() as stop, keep_if_others_die(run), bar:
        while run.epoch < epochs:
            model.train()
            batches = data.train.micro_batches(
                batch_size,
                parts=accumulate * world,
                mine=mine,
                seed=seed,
                epoch=run.epoch,
                start=run.batch,
                device=device,
            )
            batch_loss = 0.0
            for part, batch in zip(cycle(mine), run.timed(batches)):
                images, labels, share = batch
                # Dropout draws by (seed, step, part): so do resumed runs.
                torch.manual_seed(seed * 1_000_003 + run.step + part * 1_000_000_007)
                if mix is not None:
                    images, labels = mix(images, labels)
                last = part == mine[-1]
                with processes.not_yet(net, last=last):
                    with amp.autocast():
                        loss = share * loss_fn(net(images), labels, images)
                    # The average over processes becomes a sum.
                    amp.backward(world * loss)
                batch_loss += loss.detach()
                if not last:
                    continue
                batch_loss, stopped = processes.total(
                    float(batch_loss), float(stop.is_set())
                )
                run.check_finite(batch_loss, step=run.step + 1)
                amp.step(optimizer, clip_norm)
                if average:
                    parts["average"].update_parameters(model)
                seen = min(batch_size, len(data.train) - run.images)
                run.end_step(batch_loss, seen)
                bar.update(seen)
                batch_loss = 0.0
                if stopped:
                    run.interrupt()
            processes.copy_buffers(measured)
            line = run.end_epoch(
                evaluate(measured, data.validation, precision=precision)
            )
            if progress and processes.rank() == 0:
                bar.write(line)
    run.close()
    if average:
        model.load_state_dict(measured.state_dict())
    return run.history


def check_settings(**settings):
    """Return the settings, or raise a ValueError that names the wrong one."""
    for name in ("epochs", "batch_size", "lr", "clip_norm", "accumulate"):
        if not settings[name] > 0:
            raise ValueError(f"{name} is {settings[name]}, expected more than 0")
    if not settings["weight_decay"] >= 0:
        raise ValueError(
            f"weight_decay is {settings['weight_decay']}, expected 0 or more"
        )
    for name in ("warmup", "label_smoothing", "average"):
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
        raise ValueError(f"warmup_steps {warmup_steps} is not in [0, {steps})")
    cosine = CosineAnnealingLR(optimizer, T_max=steps - warmup_steps)
    if warmup_steps == 0:
        return cosine
    climb = LinearLR(
        optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps
    )
    return SequentialLR(optimizer, [climb, cosine], milestones=[warmup_steps])


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

    def backward(self, loss):
        """Add the gradient of ``loss`` to what there is."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer, clip_norm):
        """Step down the gradient, clipped to ``clip_norm``, and clear it."""
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
        logits (len(split), num_classes) are fp32 on the CPU. Where several
        processes train, each computes a share, and all return the whole.
    """
    device = next(model.parameters()).device
    amp = MixedPrecision(precision, device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    mine = split
    if processes.count() > 1:
        mine = split.subset(processes.share(len(split)))
    logits, labels = [], []
    try:
        with torch.inference_mode(), amp.autocast():
            for images, targets in mine.batches(batch_size, device=device):
                logits.append(model(images).float().cpu())
                labels.append(targets.cpu())
    finally:
        for module, training in modes:
            module.training = training
    logits = processes.gather(torch.cat(logits), len(split))
    labels = processes.gather(torch.cat(labels), len(split))
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    loss = F.cross_entropy(logits, labels).item()
    return Evaluation(accuracy, loss, logits, labels)


if __name__ == "__main__":
    from vitutils.cli.train import main

    raise SystemExit(main())
