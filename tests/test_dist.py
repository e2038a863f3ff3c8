"""The world of one process, and of several over gloo."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from nanolab import dist
from nanolab.errors import UserError


def test_one_process_is_a_world_without_a_group():
    world = dist.open_world("cpu", "float32")
    assert (world.rank, world.size, world.device, world.dtype) == (
        0,
        1,
        torch.device("cpu"),
        torch.float32,
    )
    assert dist.sum_over_ranks(world, torch.ones(2)).tolist() == [1, 1] and dist.gather_objects(
        world, "x"
    ) == ["x"]
    assert dist.shard(world, [1, 2, 3]) == [1, 2, 3] and not torch.distributed.is_initialized()
    dist.barrier(world)
    dist.close_world(world)


def test_dtypes_and_devices_by_name():
    world = dist.open_world("cpu")
    assert world.dtype in (torch.float32, torch.bfloat16)
    assert (
        dist.with_dtype(world, "bfloat16").dtype == torch.bfloat16
        and dist.with_dtype(world, "float32").dtype == torch.float32
    )
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"launch.device"):
            dist.open_world("cuda")


RANK = """
import sys
from pathlib import Path
import torch
from nanolab import dist

world, made = dist.open_world("cpu", "float32", threads=1), Path(sys.argv[1])
rank, size = world.rank, world.size
assert dist.sum_over_ranks(world, torch.tensor([1.0, rank])).tolist() == [size, sum(range(size))]
assert dist.gather_objects(world, {"rank": rank}) == [{"rank": r} for r in range(size)]
assert dist.shard(world, list(range(5))) == list(range(rank, 5, size))
if rank == 0:
    made.write_text("by rank 0")
dist.barrier(world)
assert made.read_text() == "by rank 0"
dist.close_world(world)
print("done", rank)
"""


@pytest.mark.dist
def test_ranks_sum_gather_and_wait(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(tmp_path / "made")],
                env=os.environ | place,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    assert [process.communicate(timeout=120)[0] for process in processes] == [
        "done 0\n",
        "done 1\n",
    ]


@pytest.fixture
def two_gpus(monkeypatch):
    """torch as on a machine with two GPUs; gives what init_process_group is called with."""
    asked = {}
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "set_device": lambda place: None,
        "get_device_capability": lambda _: (9, 0),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **named: asked.update(named, backend=backend),
    )
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    return asked


def test_a_gpu_process_tells_nccl_its_device(two_gpus):
    """Not its rank's: process 3 of two machines with two GPUs each has the second one of its
    own.
    """
    world = dist.open_world("auto")
    assert (two_gpus["backend"], two_gpus["device_id"]) == ("nccl", torch.device("cuda", 1))
    assert (world.device, world.dtype) == (torch.device("cuda", 1), torch.bfloat16)


def test_more_processes_than_gpus_are_refused(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UserError, match=r"process 2 .* torch sees 2; use launch\.nproc=2, or launch\.device=cpu"
    ) as refused:
        dist.open_world("cuda")
    assert "\n" not in str(refused.value)
