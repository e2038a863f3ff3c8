"""Starting vLLM for a folder of a model: the version that is tested here, its settings, and what it
refuses as one line.

vLLM is imported inside of functions only: nothing else of the lab needs it.
"""

import os
from pathlib import Path
from typing import Any

import torch

from nanolab.errors import UserError
from nanolab.settings.vllm_options import VLLMOptions, require_vllm

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # which takes no logits processors of others
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every process computes on the first core
}
CPU_BLOCK = 32  # positions of a cache block: a cut recomputes half of one; 16 is refused on a CPU


def named(options: VLLMOptions) -> str:
    """The engine as reports name it."""
    parallel = options.tensor_parallel_size * options.pipeline_parallel_size
    return f"vLLM {require_vllm()}" + (f" on {parallel} devices" if parallel > 1 else "")


def load_engine(
    folder: Path, options: VLLMOptions, dtype: str, rows: int, device: torch.device
) -> Any:
    """A vLLM engine (LLMEngine) for what save_pretrained wrote into `folder`, in `dtype`
    ("float32", "bfloat16" or "auto": the checkpoint's own), of at most `rows` rows at once.

    Several processes of a step, each with an engine, are its data parallelism. Raises UserError
    where vLLM is missing or cannot serve the model.
    """
    require_vllm()
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # beside a process group of ours, which vLLM would take for its own, in a process of its own
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if ranks else "0"
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # of a Drawing, between our processes
    parallel = options.tensor_parallel_size * options.pipeline_parallel_size
    given: dict[str, Any] = {
        "max_model_len": options.max_model_len,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "distributed_executor_backend": "uni" if parallel == 1 else "mp",
        "enforce_eager": bool(options.enforce_eager),
    }
    if device.type == "cpu":
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(options.cpu_cache_gib)
        given |= {"block_size": CPU_BLOCK, "enforce_eager": options.enforce_eager is not False}
    else:
        given["gpu_memory_utilization"] = options.gpu_memory_utilization
        if ranks:  # before the engine's process starts, which takes the first devices that it sees
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own_devices(device.index, parallel))
    try:
        from vllm import EngineArgs, LLMEngine

        # vLLM's processes import it by its name
        import nanolab.inference.vllm_processor  # noqa: F401

        arguments = EngineArgs(
            model=str(folder),
            dtype=dtype,
            max_num_seqs=rows,
            enable_prefix_caching=True,
            enable_chunked_prefill=False,  # a draw after a part of a prompt would be made in vain
            async_scheduling=False,  # a draw needs the token before it
            skip_tokenizer_init=True,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            logits_processors=["nanolab.inference.vllm_processor:AddressedDraws"],
            worker_extension_cls="nanolab.inference.vllm_draws.DrawingWorker",
            **given,
        )
        return LLMEngine.from_engine_args(arguments)
    # an architecture, a context, a dtype or a memory that it refuses: each its own kind
    except Exception as error:
        raise UserError(
            f"vLLM cannot serve {folder} ({type(error).__name__}: {_first_line(error)})"
        ) from error


def own_devices(rank: int, count: int) -> list[str]:
    """The GPUs of the machine's process number `rank`, each of which takes `count`; UserError where
    there are too few.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
    found = names[rank * count : (rank + 1) * count]
    if len(found) < count:
        raise UserError(
            f"process {rank} of this machine needs {count} GPUs of its own for vLLM, and there are"
            f" {len(names)}: lower launch.nproc or vllm.tensor_parallel_size"
        )
    return found


def _first_line(error: Exception) -> str:
    """The line of a message that says most: pydantic puts a headline and a place before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith(("Value error", "Assertion"))), None)
    return (said or (lines[0] if lines else "no message")).partition(" [type=")[0]
