"""Mixed precision: compute in 16 bits where that pays, keep weights in 32."""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16", "fp16"]
SMALLEST_SCALE = 1e-3  # of fp16's loss; it begins at 65,536 and is halved
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Compute in bf16 or fp16 where that pays; keep weights in fp32.

    Args:
        precision: "fp32", "bf16" or "fp16"; "auto" takes bf16 on CUDA from the
            Ampere generation on, fp16 with loss scaling on older CUDA devices, and
            fp32 elsewhere.
        device: where the model is.

    Raises:
        ValueError: there is no such precision.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        if precision == "auto":
            precision = "fp32"
            if device.type == "cuda":
                ampere = torch.cuda.get_device_capability(device) >= (8, 0)
                precision = "bf16" if ampere else "fp16"
        if precision not in DTYPES:
            raise ValueError(
                f"precision is {precision!r}, expected 'auto' or one of {[*DTYPES]}"
            )
        self.device, self.dtype = device, DTYPES[precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> AbstractContextManager:
        """Return a context in which layers compute in 16 bits, if they are to."""
        return torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype is not None
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` to what there is."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, clip_norm: float) -> float:
        """Step down the gradient, clipped to ``clip_norm``.

        Returns:
            The norm before that. In fp16 a step whose gradient overflows is left out,
            and the loss scaled less: its norm is 0, until the scale is so small that
            no scale would help.
        """
        self.scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm).item()
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        left_out = SMALLEST_SCALE < self.scaler.get_scale() < scale
        return 0.0 if left_out else norm
