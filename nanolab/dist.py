"""Ranks: one process's place in the world, and the few collective operations the lab needs.

Rank logic lives here and at the edges that call it, never in the model, the samplers or the graders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from nanolab.schema import UserError

WAIT = timedelta(
    hours=12
)  # ranks wait for rank 0 while it trains a tokenizer on billions of characters


@dataclass(frozen=True)
class World:
    """This process: its rank among `size`, its device, and the dtype it computes in (weights stay float32)."""

    rank: int
    size: int
    device: torch.device
    dtype: torch.dtype


def check_device(device: str, setting: str = "launch.device") -> None:
    """Raises UserError when cuda is asked for, by `setting`, and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{setting} = cuda, but torch finds no CUDA device here; use {setting}=cpu")


def open_world(device: str = "auto", dtype: str = "auto", threads: int | None = None) -> World:
    """Join the process group that torchrun describes (RANK, WORLD_SIZE, LOCAL_RANK), or stand alone.

    Raises UserError when cuda is asked for and there is none.
    """
    check_device(device)
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = (
        torch.device(kind, int(os.environ.get("LOCAL_RANK", 0)))
        if kind == "cuda"
        else torch.device("cpu")
    )
    if kind == "cuda":
        torch.cuda.set_device(place)
    elif threads:
        torch.set_num_threads(threads)
    if size > 1:
        torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=WAIT)
    return with_dtype(World(rank, size, place, torch.float32), dtype)


def with_dtype(world: World, dtype: str) -> World:
    """The world computing in `dtype`: "float32", "bfloat16", or "auto": bfloat16 where the hardware multiplies it natively."""
    if dtype == "auto":
        dtype = "bfloat16" if _native_bfloat16(world.device) else "float32"
    return replace(world, dtype=getattr(torch, dtype))


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except FileNotFoundError:  # not Linux: no way to tell, so no bfloat16
        return ""


def close_world(world: World) -> None:
    """Leave the process group."""
    if world.size > 1:
        torch.distributed.destroy_process_group()


def barrier(world: World) -> None:
    """Wait for every rank."""
    if world.size > 1:
        torch.distributed.barrier()


def sum_over_ranks(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """The elementwise sum of `tensor` over all ranks, in place; every rank gets it."""
    if world.size > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


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
