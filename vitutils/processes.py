"""Several processes that train one model: who am I, and what do all of us say?

``torchrun`` starts the processes and tells each who it is. Where it did not, there is
one process, and every function here costs nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that ``torchrun`` started; leave at the end."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    # Imported later, by DistributedDataParallel, it keeps the group in its
    # defaults, and threads that are left so can abort a process's end.
    import torch.distributed.nn.functional

    backends = "gloo"  # for what is on the CPU
    if torch.cuda.is_available():
        backends = "cpu:gloo,cuda:nccl"
        here = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        torch.cuda.set_device(here % torch.cuda.device_count())
    dist.init_process_group(backends)
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number: the first one, 0, keeps the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def replicate(model: nn.Module) -> nn.Module:
    """Return a module that averages its gradient over all processes.

    Args:
        model: the same class in each process; the first's weights count.

    Source: Li et al. (2020), PyTorch Distributed, section 3.
    """
    if count() == 1:
        return model
    return DistributedDataParallel(model)


def not_yet(net: nn.Module, *, last: bool) -> AbstractContextManager:
    """Keep gradients here until the ``last`` backward of a step."""
    if last or not isinstance(net, DistributedDataParallel):
        return nullcontext()
    return net.no_sync()


def total(*values: float) -> tuple[float, ...]:
    """Return each number summed over all processes, the same in all."""
    if count() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return tuple(sums.tolist())


def share(number: int) -> Tensor:
    """Return which of ``number`` items are this process's to evaluate.

    All processes get equally many. Where that does not come out even, the
    first items come a second time, and ``gather`` leaves those out again.
    """
    world = count()
    each = -(-number // world)
    return torch.arange(rank(), each * world, world) % number


def gather(rows: Tensor, number: int) -> Tensor:
    """Put together what all processes found for their ``share``, in order.

    Args:
        rows: CPU tensor, a row for each of this process's items.
        number: how many items there are.

    Returns:
        Tensor with ``number`` rows, the same in all processes.
    """
    if count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(count())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)[:number]


def copy_buffers(model: nn.Module) -> None:
    """Give all processes the first one's running statistics, as BatchNorm's."""
    if count() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def ask_first(function: Callable, *args: Any) -> Any:
    """Return in all processes what a call returns in the first, or raise its error."""
    if count() == 1:
        return function(*args)
    answer = [None, None]
    if rank() == 0:
        try:
            answer[0] = function(*args)
        except Exception as error:  # whatever it is, all are to stop with it
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def expect_same(values: dict) -> None:
    """Raise a ValueError in all processes if they do not have the same values.

    Args:
        values: plain ones by name, also dicts of them.
    """
    found = difference(ask_first(lambda: values), values)
    (differing,) = total(float(found is not None))
    if found is not None:
        name, first, here = found
        raise ValueError(f"{name} is {first} in the first process, and {here} here")
    if differing:
        raise ValueError("another process has other settings or data than the first")


def difference(before: Any, now: Any, name: str = "settings") -> tuple | None:
    """Return (name, before, now) of the first value in which two dicts differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else (name, before, now)
    for key in [*now, *(before.keys() - now.keys())]:
        found = difference(before.get(key), now.get(key), key)
        if found is not None:
            return found
    return None
