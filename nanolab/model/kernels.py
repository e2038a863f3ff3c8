"""kernels.c, compiled at its first use on this machine: decoding's attention, and the candidates of a draw, in float32 on a CPU.

torch's own operators read every row's cache up to the longest row's length, in a dozen calls a layer; the kernel reads what each row
holds, once (LOG.md has the gain). They need Linux, torch with GNU's OpenMP, and a C compiler: the command in the variable CC, or `cc`.
Where they cannot be had torch's operators serve, and `status()` says which it is and why. NANOLAB_NATIVE=0 asks for torch's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from nanolab import files

SOURCE = Path(__file__).with_suffix(".c")
# no -ffast-math: it drops NaNs, and its start code changes the whole process's arithmetic
STACK = 16_384  # working numbers of a row lie on a thread's stack: rows and candidates beyond this many are torch's
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled functions, or None, and a sentence that says which and why."""
    if os.environ.get("NANOLAB_NATIVE") == "0":
        return None, "torch's operators, as NANOLAB_NATIVE=0 asks"
    if sys.platform != "linux":
        return None, f"torch's operators: the fused kernels are for Linux, this is {sys.platform}"
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        return None, (
            f"torch's operators: no C compiler ({compiler[0]}) to build the fused kernels with; `apt-get install gcc` makes "
            "decoding faster"
        )
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
    except (
        OSError,
        subprocess.CalledProcessError,
    ) as error:  # it refused, mlruns cannot be written, another OpenMP than torch's
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        return (
            None,
            f"torch's operators: {shlex.join(compiler)} built no kernels that can be loaded ({reason[-300:]})",
        )
    found.decode_attention.argtypes, found.decode_attention.restype = (
        [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 6,
        None,
    )
    found.top_candidates.argtypes, found.top_candidates.restype = (
        [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3,
        ctypes.c_int64,
    )
    return found, "fused kernels"


def status() -> str:
    """How a CPU decodes in float32: "fused kernels", or torch's operators and why."""
    return library()[1]


def _compiled(compiler: list[str]) -> Path:
    """The shared library, built where this source, compiler and processor have none yet."""
    processor = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("flags", "Features", "model name"))
    ]
    facts = [SOURCE.read_text(), *compiler, *FLAGS, platform.machine(), *sorted(set(processor))]
    target = (
        files.MLRUNS
        / "native"
        / f"{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:16]}.so"
    )
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            # two calls: linked without -fopenmp, the library takes the OpenMP functions that torch has loaded, and shares its threads
            compiled, linked = f"{folder}/kernel.o", f"{folder}/kernel.so"
            for command in (
                [*FLAGS, "-c", str(SOURCE), "-o", compiled],
                ["-shared", compiled, "-o", linked],
            ):
                subprocess.run([*compiler, *command], capture_output=True, text=True, check=True)
            os.replace(linked, target)
    return target


def usable(dtype: torch.dtype, device: torch.device, numbers: int) -> bool:
    """Whether the kernels serve tensors of this dtype on this device, with so many working numbers a row (positions, or candidates)."""
    return (
        device.type == "cpu"
        and dtype == torch.float32
        and numbers <= STACK
        and library()[0] is not None
    )


def fused_attention(
    tables: tuple[torch.Tensor, torch.Tensor],
    store: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    rows: int,
    length: int,
) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """As `torch_attention` in nanolab/model/decode.py."""
    found, _ = library()
    assert (
        found is not None
        and store.is_contiguous()
        and all(x.is_contiguous() for x in (*tables, slots, positions))
    )
    _, layers, _, kv_heads, room, width = store.shape
    start, layer = store.data_ptr(), store.stride(1) * store.itemsize
    cosine, sine = (table.data_ptr() for table in tables)

    def attend(i: int, mixed: torch.Tensor) -> torch.Tensor:
        tokens, columns = mixed.shape
        heads = columns // width - 2 * kv_heads
        assert mixed.is_contiguous() and mixed.dtype == store.dtype == torch.float32
        out = torch.empty(tokens, heads * width)
        keys = start + i * layer
        found.decode_attention(
            mixed.data_ptr(),
            cosine,
            sine,
            keys,
            keys + layers * layer,
            slots.data_ptr(),
            positions.data_ptr(),
            out.data_ptr(),
            tokens,
            heads,
            kv_heads,
            width,
            room,
            length,
        )
        return out

    return attend


def top_candidates(logits: torch.Tensor, top_k: int) -> tuple[numpy.ndarray, numpy.ndarray, int]:
    """The `top_k` most likely tokens of each row of logits (n, vocab), of equal ones those of lowest id, in the order of their ids.

    Returns ids (n, top_k) int64, their log-probabilities in the whole row (n, top_k) float32, at most 0, and the number of rows whose
    logits are not finite, for which the rest means nothing.
    """
    found, _ = library()
    assert found is not None and logits.dtype == torch.float32
    logits = logits.contiguous()
    rows, vocab_size = logits.shape
    assert 1 <= top_k <= vocab_size
    ids, log_p = numpy.empty((rows, top_k), numpy.int64), numpy.empty((rows, top_k), numpy.float32)
    return (
        ids,
        log_p,
        found.top_candidates(
            logits.data_ptr(), ids.ctypes.data, log_p.ctypes.data, rows, vocab_size, top_k
        ),
    )
