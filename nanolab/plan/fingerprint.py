"""The fingerprint of a step: 12 hex digits that change exactly when its result may change. How the
stage is launched (processes, machines, threads) is no part of it. Imports no torch.
"""

import ast
import importlib.metadata
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.files import ROOT
from nanolab.settings import model_source
from nanolab.settings.config import StudyConfig
from nanolab.settings.schema import to_dict
from nanolab.settings.vllm_options import require_vllm


def fingerprint(
    step: str, module: str, config: Any, study: StudyConfig, inputs: dict[str, str]
) -> str:
    """12 hex digits for `step`, run by nanolab.stages.<module>; `inputs`: step -> digits."""
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
    if getattr(config, "engine", "") == "vllm":
        facts["vllm"] = require_vllm()
    return files.sha256_text(json.dumps(facts, sort_keys=True))[:12]


def data_identity(study: StudyConfig) -> str:
    """What the data source says it is: settings, sizes and times of files, or revisions."""
    from nanolab.data.sources.source import open_source

    return open_source(study.data).identity()


def device_kind(wanted: str = "auto") -> str:
    """ "cuda" or "cpu": what `wanted` will mean in the launched process, found without torch."""
    if wanted != "auto":
        return wanted
    return "cuda" if Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists() else "cpu"


def code_hash(module: str, root: Path = ROOT) -> str:
    """SHA-256 over the files of nanolab that nanolab.stages.<module> imports, itself included."""
    paths = source_files(root / "nanolab" / "stages" / f"{module}.py", root)
    lines = (f"{path.relative_to(root)} {files.sha256_file(path)}\n" for path in paths)
    return files.sha256_text("".join(lines))


def source_files(start: Path, root: Path = ROOT) -> list[Path]:
    """`start` and all files of the package that it imports, at any depth, with the C source beside
    any of them; in order of their names.
    """
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found |= {file for file in (path, path.with_suffix(".c")) if file.is_file()}
            waiting += _imports(path, path.stat().st_mtime_ns, root)
    return sorted(found)


@lru_cache(maxsize=1000)
def _imports(path: Path, modified: int, root: Path) -> tuple[Path, ...]:
    """The files of the package that `path` imports, at its top or in a function; of a package that
    it imports as such (the tasks, found by lying there) all files.
    """
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: the package uses absolute imports only"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.expr):  # no expression holds an import, and most nodes are
            waiting += ast.iter_child_nodes(node)
    paths: set[Path] = set()  # of each name: its module, and the __init__ of each package above it
    for name in names:
        parts = name.split(".")
        if parts[0] == "nanolab":
            for place in (root.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)):
                paths |= {place.with_suffix(".py"), place / "__init__.py"}
            paths.update(root.joinpath(*parts).glob("*.py"))
    return tuple(sorted(path for path in paths if path.is_file()))
