"""A file imports from lower floors, or from a file listed before it on its own floor; files stay small; torch stays where it is needed."""

import ast
from pathlib import Path

import pytest

from nanolab.files import ROOT

FLOORS = [
    [
        "schema",
        "grid",
        "model_source",
        "config",
        "files",
        "experiment",
        "seeds",
        "dist",
        "journal",
        "progress",
        "tracking_store",
        "tracking",
        "tracking_notes",
        "tracking_views",
        "system_metrics",
        "calculator",
        "traces",
        "courier",
        "intervals",
        "sandbox_runner",
        "sandbox_levels",
        "sandbox",
    ],
    [
        "data.world",
        "data.published",
        "data.blocks",
        "data.local",
        "data.download",
        "data.bundle",
        "data.hub",
        "data.sources",
        "data.choice",
        "data.requirements",
        "data.tokenizer",
        "data.chat",
        "data.hf_tokenizer",
        "data.tokens",
        "data.batches",
        "data.contamination",
        "data.text_kinds",
    ],
    [
        "model.scaling",
        "work",
        "costs",
        "model.kv_cache",
        "model.attention",
        "model.linear",
        "model.loss",
        "model.gpt",
        "model.kernels",
        "model.decode",
        "model.trees",
        "model.optim",
        "checkpoint",
    ],
    ["generation", "scheduler", "engine", "hf", "hf_export"],
    [
        "samplers.toy",
        "samplers.batch",
        "samplers.baselines",
        "samplers.power_mh",
        "samplers.power_smc",
        "samplers.power_rollout",
        "samplers.diagnostics",
    ],
    [
        "evals.base",
        "evals.bpb",
        "evals.core",
        "evals.programs",
        "evals.chat_tasks",
        "evals.methods",
    ],
    [
        "training.loop",
        "training.grpo",
        "report.environment",
        "report.cards",
        "report.formats",
        "report.blocks",
        "report.data_section",
        "report.markdown",
        "report.canvas",
        "report.plots",
        "report.power_plots",
        "report.data_plots",
        "report.compare_plots",
        "report.provenance",
        "report.collect",
        "report.results",
        "report.html_links",
        "report.html_overview",
        "report.html",
        "report.records",
        "report.view",
        "report.one_chain",
        "report.side_by_side",
    ],
    ["stages"],
    [
        "fingerprint",
        "launch",
        "plan",
        "compare",
        "fetch",
        "durations",
        "terminal",
        "live",
        "machines",
        "pipeline",
        "worker",
        "notebooks",
        "notebook_page",
        "start_here",
        "trained",
        "terminal_live",
        "screens",
        "follow",
        "spread",
        "chat_session",
        "chat_screen",
        "served_model",
        "registry",
        "study",
        "doctor",
        "clean",
        "lm_eval_adapter",
        "commands",
        "__main__",
    ],
]
PLACES = {
    name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)
}
TORCH_FREE = [
    "grid",
    "model_source",
    "config",
    "experiment",
    "schema",
    "files",
    "journal",
    "progress",
    "seeds",
    "tracking_store",
    "tracking",
    "traces",
    "tracking_notes",
    "tracking_views",
    "system_metrics",
    "courier",
    "calculator",
    "intervals",
    "sandbox_runner",
    "sandbox_levels",
    "sandbox",
    "model.scaling",
    "work",
    "costs",
    "samplers.diagnostics",
    "fingerprint",
    "launch",
    "plan",
    "compare",
    "fetch",
    "live",
    "machines",
    "pipeline",
    "worker",
    "notebooks",
    "notebook_page",
    "start_here",
    "durations",
    "terminal",
    "terminal_live",
    "screens",
    "follow",
    "spread",
    "registry",
    "study",
    "doctor",
    "clean",
    "__main__",
]
MLFLOW = [
    "tracking_store",
    "tracking",
    "traces",
    "registry",
    "served_model",
]  # the last is what MLflow itself runs
PACKAGE = ROOT / "nanolab"
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def place_of(name: str) -> tuple[int, int] | None:
    """Floor and place of a module; a package listed as one (data.world, stages) stands for its files."""
    while name and name not in PLACES:
        name = name.rpartition(".")[0]
    return PLACES.get(name)


def imported(path: Path, top_only: bool = False) -> set[str]:
    """Dotted names that a file imports; `top_only` leaves out those inside of functions."""
    tree = ast.parse(path.read_text())
    nodes = [node for node in tree.body] if top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__init__.py"], ids=name_of
)
def test_imports_go_down(path):
    name = name_of(path)
    own = place_of(name)
    assert own is not None, (
        f"nanolab/{name} has no floor: add it to the table here and in the design"
    )
    for target in imported(path):
        if target.startswith("nanolab."):
            below = place_of(target.removeprefix("nanolab."))
            same_package = own == below and PLACES.get(name) is None
            assert below is not None and (below < own or same_package), (
                f"{name} imports {target}, which is not below it"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_mlflow_has_one_door(path):
    name = name_of(path)
    assert len(path.read_text().splitlines()) <= 350
    assert path.stem not in ("utils", "common", "helpers")
    if name not in MLFLOW:
        assert not any(target.split(".")[0] == "mlflow" for target in imported(path)), (
            f"{name} imports mlflow; only {MLFLOW} may"
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_torch_is_imported_only_where_it_is_needed(path):
    name = name_of(path)
    if (
        path.name == "__init__.py"
        or name in TORCH_FREE
        or name.startswith(("report.", "data.world", "commands."))
    ):
        heavy = {
            target for target in reachable(path) if target.split(".")[0] in ("torch", "mlflow")
        }
        assert not heavy, f"importing {name} imports {heavy}"


def reachable(path: Path) -> set[str]:
    """What importing a file imports, through other files of the package too."""
    seen, waiting, names = set(), [path], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for target in imported(current, top_only=True):
            names.add(target)
            if target.startswith("nanolab"):
                parts = target.split(".")
                candidates = [
                    ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(2, len(parts) + 1)
                ]
                waiting += [candidate for candidate in candidates if candidate.is_file()]
    return names
