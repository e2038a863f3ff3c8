"""A file imports from lower floors, or from a file listed before it on its own floor; files stay
short; torch and mlflow stay where they are needed.
"""

import ast
from pathlib import Path

import pytest

from nanolab.files import ROOT

# from the ground up; a package is one floor, and its files are listed where their order matters
FLOORS = [
    ["errors", "files", "seeds", "dist", "statistics"],
    ["sandbox.calculator", "sandbox.runner", "sandbox.levels", "sandbox.programs"],
    ["sandbox.expression_worker", "sandbox.expressions"],
    ["data.tasks"],
    ["settings.kinds", "settings.schema", "settings.grid", "settings.model_source"],
    ["settings.model_name"],
    ["settings.training_stages", "settings.vllm_options"],
    ["settings.evaluation_stages", "settings.config"],
    ["settings.study_file"],
    ["results"],
    ["tracking.journal", "artefacts"],
    ["data.world"],
    ["data.sources.published", "data.tokens.tokenizer", "data.tokens.chat"],
    ["data.sources.blocks", "data.sources.local"],
    ["data.sources.network", "data.sources.bundle", "data.sources.hub", "data.sources.source"],
    ["data.sources.choice", "data.sources.requirements"],
    ["data.tokens.hf_tokenizer", "data.tokens.token_files", "data.tokens.batches"],
    ["data.checks.overlap", "data.checks.text_kinds"],
    ["model.scaling", "costs.shapes", "costs.work", "costs.hardware", "costs.estimate"],
    ["samplers.diagnostics", "wording"],
    ["tracking.progress", "tracking.address", "tracking.faults", "tracking.store"],
    ["tracking.environment", "tracking.run_reader", "tracking.run_writer"],
    ["tracking.comparable", "tracking.notes"],
    ["tracking.views", "tracking.system_metrics", "tracking.traces", "tracking.courier"],
    ["inference.kv_cache"],
    ["model.attention", "model.linear", "model.loss", "model.gpt", "model.optim"],
    ["model.checkpoint"],
    ["inference.kernels", "inference.decode", "inference.trees"],
    ["inference.proposal", "inference.protocol", "inference.rows"],
    ["inference.scheduler"],
    ["inference.engine", "inference.gpt_engine"],
    ["inference.hf_forward", "inference.hf_scorer", "inference.hf_engine"],
    ["inference.prepared_models", "inference.hf_loading"],
    ["inference.vllm_draws", "inference.vllm_processor"],
    ["inference.vllm_loading", "inference.vllm_engine"],
    ["samplers.batch", "samplers.baselines", "samplers.power_mh"],
    ["samplers.power_smc", "samplers.power_rollout"],
    ["evals.base", "evals.bpb", "evals.core", "evals.asking"],
    ["evals.problems", "evals.chat_tasks", "evals.methods", "evals.subject", "evals.evaluation"],
    ["evals.model_facts", "evals.published"],
    ["training.loop", "training.grpo"],
    ["figures.style", "figures.training", "figures.ablation", "figures.chains"],
    ["figures.tokenizer", "figures.comparison"],
    ["report.blocks", "report.sections", "report.data_section", "report.environment_section"],
    ["report.outside", "report.published_figures"],
    ["report.tables", "report.document"],
    ["report.provenance", "report.store_values", "report.results_csv"],
    ["report.templates", "report.html_overview", "report.html_page"],
    ["report.compare"],
    ["stages"],
    ["plan.interpreter", "plan.parameters", "plan.notebook_files", "plan.fingerprint"],
    ["plan.steps", "plan.durations", "plan.preparation"],
    ["terminal.plain", "terminal.events", "terminal.live", "terminal.screens", "terminal.follow"],
    ["notebook.cards", "notebook.records"],
    ["notebook.live", "notebook.page", "notebook.stage_results", "notebook.one_chain"],
    ["notebook.side_by_side", "notebook.study_map", "notebook.published"],
    ["chat.trained", "chat.answer", "chat.session", "chat.screen"],
    ["export.hf_folder", "export.served_model", "export.registry"],
    ["export.lm_eval_adapter"],
    ["server.faults", "server.requests", "server.transcript", "server.prompts", "server.engine"],
    ["server.answers", "server.responses", "server.gate", "server.app", "server.listening"],
    ["pipeline.study_lock", "pipeline.failures", "pipeline.launch"],
    ["pipeline.torchrun", "pipeline.worker", "pipeline.machines", "pipeline.execution"],
    ["pipeline.notebooks", "pipeline.fetch", "pipeline.spread", "pipeline.study"],
    ["pipeline.doctor", "pipeline.clean"],
    ["commands", "__main__"],
]
PLACES = {
    name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)
}
# with everything that they import; a package stands for its files
TORCH_FREE = {
    "errors", "files", "seeds", "statistics", "artefacts", "results", "wording", "settings",
    "sandbox", "tracking",
    "data.tasks", "data.world", "evals.published", "model.scaling", "costs",
    "samplers.diagnostics", "figures", "report", "plan",
    "terminal", "notebook", "export.registry", "pipeline", "commands",
    "__main__",
}  # fmt: skip
STARTS_TORCH = {"pipeline.torchrun"}  # torchrun itself, with our words for what it reports
MLFLOW = {
    "tracking.store",
    "tracking.run_reader",
    "tracking.run_writer",
    "tracking.traces",
    "export.registry",
    "export.served_model",  # what MLflow itself runs
}
# files that are still longer than 350 lines, and how long they may be
LONG = {
    "sandbox.runner": 389,
}
# functions with more than 6 parameters, and why
MANY_PARAMETERS = {
    "export.lm_eval_adapter.__init__": "the harness names them in --model_args",
}
# tests of what several files do together, or of what lies outside of the package
TESTS_OF_MORE = {
    "commands/test_main", "commands/test_mistakes", "data/world/test_disjoint",
    "docs/test_documentation", "docs/test_how_to", "evals/test_reference_answers",
    "inference/test_published_model",
    "pipeline/test_advice", "samplers/test_on_the_engine", "samplers/test_toy",
    "sandbox/test_calculator_fuzz", "sandbox/test_hostile", "scripts/test_bench_gpu",
    "scripts/test_compare_runs",
    "smoke/test_end_to_end", "stages/test_eval_stages", "stages/test_tokenizer_stages",
    "stages/test_training_stages", "test_layering", "test_reference", "tracking/test_team",
}  # fmt: skip
PACKAGE = ROOT / "nanolab"
FILES = sorted(PACKAGE.rglob("*.py"))
BESIDE_THE_PACKAGES = 12


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def listed(name: str, names) -> str | None:
    """`name` or the nearest package around it that is in `names`."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name or None


def place_of(name: str) -> tuple[int, int] | None:
    """Floor and place of a module; a package listed as one (data.world, stages) stands for its
    files.
    """
    return PLACES.get(listed(name, PLACES))


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


def test_few_files_lie_beside_the_packages():
    beside = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(beside) <= BESIDE_THE_PACKAGES, beside


def test_tests_mirror_the_package():
    """tests/ROOM/test_NAME.py tests nanolab/ROOM/NAME.py, or the package of that name."""
    found = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    for path in found:
        place = PACKAGE / path.parent / path.stem.removeprefix("test_")
        is_mirror = place.with_suffix(".py").is_file() or place.is_dir()
        name = path.with_suffix("").as_posix()
        assert is_mirror or name in TESTS_OF_MORE or path.parts[0] == "browser", (
            f"tests/{path} names no file of nanolab/: rename it, or add it to TESTS_OF_MORE here"
        )


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__init__.py"], ids=name_of
)
def test_imports_go_down(path):
    name = name_of(path)
    own = place_of(name)
    assert own is not None, f"nanolab/{name} has no floor: add it to the table here"
    for target in imported(path):
        if target.startswith("nanolab."):
            below = place_of(target.removeprefix("nanolab."))
            same_package = own == below and PLACES.get(name) is None
            assert below is not None and (below < own or same_package), (
                f"{name} imports {target}, which is not below it"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_mlflow_has_one_door(path):
    if name_of(path) not in MLFLOW:
        assert not any(target.split(".")[0] == "mlflow" for target in imported(path)), (
            f"{name_of(path)} imports mlflow; only {MLFLOW} may"
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short_and_have_a_name_of_their_own(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONG.get(name_of(path), 350)
    assert path.stem not in ("utils", "common", "helpers")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(one.arg not in ("self", "cls") for one in own)
            assert node.end_lineno - node.lineno < 60, f"{node.name} has more than 60 lines"
            assert count <= 6 or f"{name_of(path)}.{node.name}" in MANY_PARAMETERS, node.name
    if path.name == "__init__.py":  # a re-export would pull a package into every fingerprint
        assert not imported(path), f"{path} imports something"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_torch_is_imported_only_where_it_is_needed(path):
    if path.name == "__init__.py" or (
        listed(name_of(path), TORCH_FREE) and name_of(path) not in STARTS_TORCH
    ):
        heavy = {
            target for target in reachable(path) if target.split(".")[0] in ("torch", "mlflow")
        }
        assert not heavy, f"importing {name_of(path)} imports {heavy}"


def reachable(path: Path) -> set[str]:
    """What importing a file imports, through other files of the package too."""
    seen: set[Path] = set()
    waiting = [path]
    names: set[str] = set()
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
