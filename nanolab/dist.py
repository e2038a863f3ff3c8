"""Ranks: one process's place in the world, and the few collective operations the lab needs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from nanolab.errors import UserError

# ranks wait for rank 0 while it trains a tokenizer on billions of characters
WAIT = timedelta(hours=12)


@dataclass(frozen=True)
class World:
    """This process: its rank among `size`, its device, and the dtype it computes in."""

    rank: int
    size: int
    device: torch.device
    dtype: torch.dtype  # weights stay float32

    def autocast(self) -> torch.autocast:
        """The context in which a model computes in the world's dtype."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )


def check_device(device: str, setting: str = "launch.device") -> None:
    """Raises UserError when cuda is asked for, by `setting`, and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{setting} = cuda, but torch finds no CUDA device here; use {setting}=cpu")


def device_kind(device: str = "auto") -> str:
    """cpu or cuda; auto is a GPU where there is one."""
    has_gpu = device == "auto" and torch.cuda.is_available()
    return "cuda" if device == "cuda" or has_gpu else "cpu"


def open_world(device: str = "auto", dtype: str = "auto", threads: int | None = None) -> World:
    """Join the process group that torchrun describes (RANK, WORLD_SIZE, LOCAL_RANK), or stand
    alone.
    """
    check_device(device)
    kind = device_kind(device)
    rank = int(os.environ.get("RANK", 0))
    size = int(os.environ.get("WORLD_SIZE", 1))
    place, backend = torch.device("cpu"), {"backend": "gloo"}
    if kind == "cuda":
        number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if number >= count:
            raise UserError(
                f"process {number} of this machine has no GPU of its own: torch sees {count}; "
                f"use launch.nproc={count}, or launch.device=cpu"
            )
        place = torch.device("cuda", number)
        torch.cuda.set_device(place)
        # with the device: else a barrier guesses it from the rank, wrongly on a second machine of
        # which not every GPU is used, and hangs
        backend = {"backend": "nccl", "device_id": place}
    elif threads:
        torch.set_num_threads(threads)
    if size > 1:
        torch.distributed.init_process_group(timeout=WAIT, **backend)
    return with_dtype(World(rank, size, place, torch.float32), dtype)


def with_dtype(world: World, dtype: str) -> World:
    """The world computing in `dtype`: "float32", "bfloat16", or "auto": bfloat16 where the hardware
    multiplies it natively.
    """
    if dtype == "auto":
        dtype = "bfloat16" if _native_bfloat16(world.device) else "float32"
    return replace(world, dtype=getattr(torch, dtype))


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:  # not Linux, or it may not be read: no way to tell, so no bfloat16
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and "avx512_bf16" in flags


def close_world(world: World) -> None:
    """Leave the process group."""
    if world.size > 1:
        torch.distributed.destroy_process_group()


def barrier(world: World) -> None:
    """Wait for every rank."""
    if world.size > 1:
        torch.distributed.barrier()


def say(world: World, line: str) -> None:
    """A line for people, from one process only."""
    if world.rank == 0:
        print(line, flush=True)


def sum_over_ranks(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """The elementwise sum of `tensor` over all ranks, in place; every rank gets it."""
    if world.size > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def sum_gradients(world: World, model: torch.nn.Module) -> None:
    """Sum the gradients of all ranks on each; of one without any they are zeros."""
    if world.size == 1:
        return
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    # in one piece: a call costs more than its bytes
    summed = sum_over_ranks(world, torch.cat([gradient.flatten() for gradient in gradients]))
    parts = summed.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))


def gather_objects(world: World, item: Any) -> list[Any]:
    """Every rank's `item`, in rank order, on every rank."""
    if world.size == 1:
        return [item]
    gathered: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(gathered, item)
    return gathered


def shard(world: World, items: Sequence[Any]) -> Sequence[Any]:
    """This rank's share of `items`: every size-th, from rank on."""
    return items[world.rank :: world.size]
