"""Distillation: a student learns from labels and from a teacher's answers."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_soft(temperature: float, balance: float) -> None:
    """Raise a ValueError for settings that make no sense."""
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not above 0")
    if not 0 <= balance <= 1:
        raise ValueError(f"balance {balance} is not in [0, 1]")


def soft_distillation(
    outputs: Tensor | tuple[Tensor, Tensor],
    labels: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 3.0,
    balance: float = 0.1,
) -> Tensor:
    """Learn the labels, and the teacher's probabilities for every class.

    Args:
        outputs: the student's logits (B, K), or DeiT's pair of them: the
            class head learns the labels, the other one from the teacher.
        labels: true classes, (B,).
        teacher_logits: (B, K), for the same images.
        temperature: tau, above 0; a higher one softens both distributions.
        balance: lambda, the teacher's share of the loss, in [0, 1].

    Returns:
        The loss, a mean over the batch.

    Raises:
        ValueError: temperature, balance or the teacher's shape is wrong.

    Source: Touvron et al. (2021), equation 2, with the divergence taken
    from teacher to student, as in Hinton et al. (2015) and DeiT's code.
    """
    check_soft(temperature, balance)
    class_logits, distill_logits = two_heads(outputs, teacher_logits)
    divergence = F.kl_div(
        F.log_softmax(distill_logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    from_labels = F.cross_entropy(class_logits, labels)
    from_teacher = temperature**2 * divergence
    return (1 - balance) * from_labels + balance * from_teacher


def hard_distillation(
    outputs: Tensor | tuple[Tensor, Tensor], labels: Tensor, teacher_logits: Tensor
) -> Tensor:
    """Learn the labels and the teacher's answers, half and half.

    Args:
        outputs: the student's logits (B, K), or DeiT's pair of them: the
            class head learns the labels, the other one from the teacher.
        labels: true classes, (B,).
        teacher_logits: (B, K), for the same images.

    Returns:
        The loss, a mean over the batch.

    Raises:
        ValueError: the teacher's shape does not fit the student's.

    Source: Touvron et al. (2021), equation 3.
    """
    class_logits, distill_logits = two_heads(outputs, teacher_logits)
    answers = teacher_logits.argmax(dim=-1)
    from_labels = F.cross_entropy(class_logits, labels)
    from_teacher = F.cross_entropy(distill_logits, answers)
    return (from_labels + from_teacher) / 2


def two_heads(
    outputs: Tensor | tuple[Tensor, Tensor], teacher_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (class_logits, distill_logits), one logits doing for both."""
    pair = outputs if isinstance(outputs, tuple) else (outputs, outputs)
    if teacher_logits.shape != pair[1].shape:
        raise ValueError(
            f"logits: teacher {tuple(teacher_logits.shape)}, student "
            f"{tuple(pair[1].shape)}; images and classes must agree"
        )
    return pair


class Teacher:
    """A trained model that answers and never changes.

    Called with images (B, C, H, W), it returns logits (B, K). It is a copy
    in eval mode that wants no gradients, and no module: no optimizer,
    checkpoint or ``train()`` of a student can reach it.

    Args:
        model: the trained model, images to logits (B, K).
    """

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) for images (B, C, H, W)."""
        return self.model.to(images.device)(images)

    def teaches(self, distillation: Callable) -> Callable:
        """Make of a distillation a ``loss_fn`` for ``vitutils.train.fit``.

        Args:
            distillation: called with outputs, labels, teacher_logits.

        Returns:
            ``loss_fn(outputs, labels, images)``; the teacher sees the
            images that the student sees, crop for crop.
        """

        def loss_fn(outputs, labels, images):
            return distillation(outputs, labels, self(images))

        return loss_fn


class ConvNet(nn.Module):
    """A small convolutional network: a teacher who knows about neighbors.

    Args:
        in_channels: number of image channels C.
        num_classes: number of classes K.
        widths: channels of the stages; each stage halves the image.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int] = (32, 64, 128),
    ):
        super().__init__()
        self.config = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "widths": list(widths),
        }
        stages = []
        for before, width in pairwise((in_channels, *widths)):
            stages += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], num_classes)
        self.to(memory_format=torch.channels_last)  # CPUs like it better

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) for images (B, C, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.stages(images)  # (B, widths[-1], H/8, W/8)
        return self.head(features.mean(dim=(2, 3)))
