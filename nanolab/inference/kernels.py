"""kernels.c, compiled at its first use on this machine: decoding's attention, and the candidates of
a draw, in float32 on a CPU.

They need Linux, torch with GNU's OpenMP, and a C compiler: the command in the variable CC, or `cc`.
Without them torch's operators serve, and `status()` says why. NANOLAB_NATIVE=0 asks for torch's.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch

from nanolab import files

SOURCE = Path(__file__).with_suffix(".c")
# no -ffast-math: it drops NaNs, and its start code changes the whole process's arithmetic
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
# working numbers of a row lie on a thread's stack: rows and candidates beyond this many are torch's
STACK = 16_384
in_use = False  # whether an engine that decodes with them was loaded


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
            f"torch's operators: no C compiler ({compiler[0]}) to build the fused kernels with;"
            " `apt-get install gcc` makes decoding faster"
        )
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
    # it refused, mlruns cannot be written, another OpenMP than torch's
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
        built = f"{shlex.join(compiler)} built no kernels that can be loaded"
        return None, f"torch's operators: {built} ({reason})"
    found.decode_attention.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 6
    found.decode_attention.restype = None
    found.top_candidates.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3
    found.top_candidates.restype = ctypes.c_int64
    return found, "fused kernels"


def status() -> str:
    """How a CPU decodes in float32: "fused kernels", or torch's operators and why."""
    return library()[1]


def _compiled(compiler: list[str]) -> Path:
    """The shared library, built where this source, compiler and processor have none yet."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # it may not be read: a library of another processor must not be taken
        lines = [f"flags of {socket.gethostname()}"]
    processor = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    facts = [SOURCE.read_text(), *compiler, *FLAGS, platform.machine(), *sorted(processor)]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    target = files.MLRUNS / "native" / f"{name}.so"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            # two calls: linked without -fopenmp, the library takes the OpenMP functions that torch
            # has loaded, and shares its threads
            compiled, linked = f"{folder}/kernel.o", f"{folder}/kernel.so"
            for options in (
                [*FLAGS, "-c", str(SOURCE), "-o", compiled],
                ["-shared", compiled, "-o", linked],
            ):
                subprocess.run([*compiler, *options], capture_output=True, text=True, check=True)
            os.replace(linked, target)
    return target


def usable(dtype: torch.dtype, device: torch.device, numbers: int) -> bool:
    """Whether the kernels serve such tensors, with so many positions or candidates a row."""
    fits = device.type == "cpu" and dtype == torch.float32 and numbers <= STACK
    return fits and library()[0] is not None


def top_candidates(logits: torch.Tensor, top_k: int) -> tuple[numpy.ndarray, numpy.ndarray, int]:
    """The `top_k` most likely tokens of each row of logits (n, vocab), of equal ones those of
    lowest id, in the order of their ids.

    Returns ids (n, top_k) int64, their log p in the whole row (n, top_k) float32, at most 0, and
    the number of rows whose logits are not finite, for which the rest means nothing.
    """
    found, _ = library()
    assert found is not None and logits.dtype == torch.float32
    logits = logits.contiguous()
    rows, vocab_size = logits.shape
    assert 1 <= top_k <= vocab_size
    ids, log_p = numpy.empty((rows, top_k), numpy.int64), numpy.empty((rows, top_k), numpy.float32)
    memory = logits.data_ptr(), ids.ctypes.data, log_p.ctypes.data
    return ids, log_p, found.top_candidates(*memory, rows, vocab_size, top_k)
