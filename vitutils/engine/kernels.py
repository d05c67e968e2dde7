"""Which of two ways to compute attention is taken when nobody asks for the weights."""

import torch
from torch import Tensor


def choose_explicit(k: Tensor) -> bool:
    """Choose the explicit product in place of torch's fused kernel?

    For training in bfloat16 on a CPU: there it is the faster one of
    two ways to the same output, by ``benchmarks/attention.py``. And for
    an ONNX file, where the kernel becomes a longer graph.

    Args:
        k: keys, (B, h, N, D/h).
    """
    bf16 = k.device.type == "cpu" and k.dtype == torch.bfloat16
    return (bf16 and k.requires_grad) or torch.onnx.is_in_onnx_export()
