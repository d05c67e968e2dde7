"""A step for large batches: in parts, by several processes, in mixed precision."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitutils import processes
from vitutils.engine.precision import MixedPrecision, Precision
from vitutils.train import Evaluation, Step, evaluate


class LargeStep(Step):
    """A step whose batch is computed in parts, by one process or several.

    Give ``fit`` a ``functools.partial`` of it, with the arguments below.

    Args:
        model, optimizer, schedule, loss_fn, clip_norm: as in ``Step``.
        average: decay of an exponential moving average of the weights, in
            [0, 1). It is what is evaluated, kept, and left in the model; 0:
            the weights themselves are.
        accumulate: parts in which each process computes its gradient.
        precision: of the computations; auto: mixed on CUDA.
        mix: ``mix(images, labels)`` mixes the images of a batch, as
            ``vitutils.data.augmentation.mixing`` makes it; None: none.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        *,
        loss_fn: Callable,
        clip_norm: float,
        average: float = 0.0,
        accumulate: int = 1,
        precision: Precision = "auto",
        mix: Callable | None = None,
    ) -> None:
        super().__init__(
            model, optimizer, schedule, loss_fn=loss_fn, clip_norm=clip_norm
        )
        if not 0 <= average < 1:
            raise ValueError(f"average is {average}, expected 0 <= average < 1")
        if not accumulate > 0:
            raise ValueError(f"accumulate is {accumulate}, expected more than 0")
        self.settings = {"average": average, "precision": precision}
        self.amp = MixedPrecision(precision, self.parameters[0].device)
        self.mix, self.accumulate = mix, accumulate
        first = accumulate * processes.rank()
        self.mine = range(first, first + accumulate)  # my parts of each batch
        self.mean = None
        if average:
            decay = get_ema_multi_avg_fn(average)
            self.mean = AveragedModel(self.model, multi_avg_fn=decay, use_buffers=True)
            self.measured = self.mean.module
        self.net = processes.replicate(self.model)

    def batches(self, split: Any, batch_size: int, **order) -> Iterable:
        """Return the batches of an epoch, each as a tuple of my parts."""
        world = processes.count()
        parts = split.micro_batches(
            batch_size, parts=self.accumulate * world, mine=self.mine, **order
        )
        return zip(*[iter(parts)] * self.accumulate, strict=True)

    def gradient(self, *parts: tuple[Tensor, Tensor, float]) -> float:
        """Compute my share of the gradient; return the whole loss."""
        seed, total = torch.initial_seed(), 0.0
        self.optimizer.zero_grad()
        for number, (images, labels, share) in zip(self.mine, parts, strict=True):
            torch.manual_seed(seed + number * 1_000_000_007)
            if self.mix is not None:
                images, labels = self.mix(images, labels)
            last = number == self.mine[-1]
            with processes.not_yet(self.net, last=last):
                with self.amp.autocast():
                    outputs = self.net(images)
                    loss = share * self.loss_fn(outputs, labels, images)
                # The average over processes becomes a sum.
                self.amp.backward(processes.count() * loss)
            total += loss.detach()
        (total,) = processes.total(float(total))
        return total

    def update(self) -> float:
        """Step down the clipped gradient; set the rate and the average."""
        norm = self.amp.step(self.optimizer, self.clip_norm)
        self.schedule.step()
        if self.mean is not None:
            self.mean.update_parameters(self.model)
        return norm

    def validate(self, split: Any) -> Evaluation:
        """Return an ``Evaluation`` by all processes together."""
        processes.copy_buffers(self.measured)
        return evaluate_together(self.measured, split, self.amp)

    def finish(self) -> None:
        """Leave in the model what was measured."""
        if self.mean is not None:
            self.model.load_state_dict(self.measured.state_dict())

    def stateful(self) -> dict[str, Any]:
        """Return by name what has a state that a resumed run needs."""
        mean = {} if self.mean is None else {"average": self.mean}
        return super().stateful() | {"scaler": self.amp.scaler} | mean


def evaluate_together(model: nn.Module, split: Any, amp: MixedPrecision) -> Evaluation:
    """Classify every image of a split once; each process computes a share.

    Args:
        model: a module that turns images into logits (B, num_classes).
        split: a split of ``vitutils.data``.
        amp: the precision to compute in.

    Returns:
        The ``Evaluation`` of the whole split, the same in all processes.
    """
    if processes.count() == 1:
        with amp.autocast():
            return evaluate(model, split)
    mine = split.subset(processes.share(len(split)))
    with amp.autocast():
        found = evaluate(model, mine)
    logits = processes.gather(found.logits, len(split))
    labels = processes.gather(found.labels, len(split))
    return Evaluation.of(logits, labels)
