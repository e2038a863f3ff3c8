"""The fingerprint of a step: 12 hex digits that change exactly when its result may change.

It covers the step's config, the fingerprints of its inputs, the identity of the data and of a model from outside, the
study's seed, the torch version, the kind of device, and the nanolab files that the stage imports, directly or through
others. How the stage is launched (processes, machines, threads) is no part of it. Imports no torch.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import files, model_source
from nanolab.config import ROOT, StudyConfig
from nanolab.schema import UserError, to_dict


def fingerprint(
    step: str, module: str, config: Any, study: StudyConfig, inputs: dict[str, str]
) -> str:
    """12 hex digits for `step`, run by nanolab.stages.<module>; `inputs` maps each input step to its fingerprint."""
    facts = {
        "step": step,
        "config": to_dict(config),
        "inputs": inputs,
        "seed": study.seed,
        "data": [data_identity(study), study.data.choice_answers],
        "torch": importlib.metadata.version("torch").split("+")[0],
        "device": device_kind(study.launch.device),
        "code": code_hash(module),
    }
    if model_source.is_outside(getattr(config, "source", None)):
        facts["model"] = model_source.identity(config.source, ROOT)
    return files.sha256_text(json.dumps(facts, sort_keys=True))[:12]


def data_identity(study: StudyConfig) -> str:
    """What the data source says it is: settings of the generated world, sizes and times of local files, hub revisions."""
    from nanolab.data.sources import open_source

    return open_source(study.data).identity()


def device_kind(wanted: str = "auto") -> str:
    """ "cuda" or "cpu": what `wanted` will mean in the launched process, found without torch."""
    if wanted != "auto":
        return wanted
    return "cuda" if Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists() else "cpu"


def code_hash(module: str, root: Path = ROOT) -> str:
    """SHA-256 over the files of nanolab that nanolab.stages.<module> imports, itself included."""
    paths = source_files(root / "nanolab" / "stages" / f"{module}.py", root)
    return files.sha256_text(
        "".join(f"{path.relative_to(root)} {files.sha256_file(path)}\n" for path in paths)
    )


def source_files(start: Path, root: Path = ROOT) -> list[Path]:
    """`start` and all files of the package that it imports, at any depth, with the C source beside any of them; in order of their names."""
    if not start.is_file():
        raise UserError(f"no stage module {start.relative_to(root)}")
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found |= {path, *([path.with_suffix(".c")] if path.with_suffix(".c").is_file() else [])}
            waiting += imports(path, path.stat().st_mtime_ns, root)
    return sorted(found)


@lru_cache(maxsize=1000)
def imports(path: Path, modified: int, root: Path = ROOT) -> tuple[Path, ...]:
    """The files of the package that the file `path` (last written at `modified`) imports, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: the package uses absolute imports only"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(
        sorted(
            {
                file
                for name in names
                if name.split(".")[0] == "nanolab"
                for file in _files_of(name, root)
            }
        )
    )


def _files_of(name: str, root: Path) -> list[Path]:
    """The files behind a dotted name: its module, and the __init__ of each package above it."""
    parts = name.split(".")
    candidates = [root.joinpath(*parts[:n]).with_suffix(".py") for n in range(1, len(parts) + 1)]
    candidates += [root.joinpath(*parts[:n]) / "__init__.py" for n in range(1, len(parts) + 1)]
    return [path for path in candidates if path.is_file()]
