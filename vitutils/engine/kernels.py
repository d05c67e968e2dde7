"""Which of two ways to compute attention is the faster one."""

import torch
from torch import Tensor


def explicit_is_faster(k: Tensor) -> bool:
    """Tell whether the explicit product beats torch's fused kernel.

    On a CPU it does in bfloat16, and for short sequences;
    ``benchmarks/throughput.py`` measures both.

    Args:
        k: keys, (B, h, N, D/h).
    """
    short = k.shape[-2] <= 64
    return k.device.type == "cpu" and (short or k.dtype == torch.bfloat16)
