"""The command line: `python -m nanolab run|stage|plan|report|data|export`."""

from __future__ import annotations

import argparse
import sys

from nanolab.schema import UserError


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    main = argparse.ArgumentParser(prog="nanolab", description="A small-LLM research lab: raw text to reinforcement learning.")
    commands = main.add_subparsers(dest="command", required=True, metavar="run|stage|plan|report|data|export")

    run = commands.add_parser("run", help="run a study: its steps in order, each through its notebook")
    run.add_argument("study", help="experiments/NAME.yaml or NAME")
    run.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change a setting; may be repeated")
    run.add_argument("--only", type=_names, default=[], metavar="STEP,..", help="run these steps, and what they need")
    run.add_argument("--from", dest="start", metavar="STEP", help="leave out the steps before this one")
    run.add_argument("--fresh", action="store_true", help="run finished steps anew")
    run.add_argument("--dry-run", action="store_true", help="show the plan and stop")

    stage = commands.add_parser("stage", help="run one step in this process; the launcher starts this")
    stage.add_argument("job", help="the job.json in the step's work folder")
    stage.add_argument("--run-id", default="", help="the MLflow run that its journal is carried to")

    show = commands.add_parser("plan", help="show a study's steps, their state and their fingerprints")
    show.add_argument("study", help="experiments/NAME.yaml or NAME")
    show.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change a setting; may be repeated")
    show.add_argument("--parameters", metavar="STEP", help="print the YAML file of a step's notebook, for papermill -f")

    report = commands.add_parser("report", help="compile the report of a study's latest execution again")
    report.add_argument("study", help="experiments/NAME.yaml or NAME")

    export = commands.add_parser("export", help="write a trained model and its tokenizer as a Hugging Face folder")
    export.add_argument("study", help="experiments/NAME.yaml or NAME")
    export.add_argument("--source", default="sft", metavar="MODEL", help="base, mid, sft (default) or rl")
    export.add_argument("--step", type=int, metavar="N", help="checkpoint step; default: the finished one")
    export.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder")
    fetch = commands.add_parser("data", help="data fetch STUDY: bring the hub data of a study ahead, so that it runs without a network")
    fetch.add_argument("action", choices=["fetch"])
    fetch.add_argument("study", help="experiments/NAME.yaml or NAME")
    fetch.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change a setting; may be repeated")
    return main


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def show_plan(study_name: str, overrides: list[str], steps: list[str] | None = None) -> int:
    """Prints the steps with their state (finished, to continue, missing) and their fingerprint."""
    from nanolab.experiment import load_study
    from nanolab.plan import plan
    planned = plan(load_study(study_name, overrides), steps)  # refuses before anything is printed
    print(f"{'step':16} {'state':11} fingerprint   inputs")
    for step in planned.values():
        state = "finished" if step.finished else "to continue" if step.started else "missing"
        print(f"{step.name:16} {state:11} {step.fingerprint}  {' '.join(step.inputs)}")
    return 0


def show_parameters(study_name: str, overrides: list[str], step: str) -> int:
    """Prints the parameters of a step's notebook as YAML."""
    import yaml

    from nanolab import notebooks
    from nanolab.config import STEPS
    from nanolab.experiment import find_study, load_study
    from nanolab.plan import step_config
    study = load_study(study_name, overrides)
    if step not in STEPS:
        raise UserError(f"unknown step {step!r}; valid steps are {', '.join(STEPS)}")
    values = notebooks.parameters(STEPS[step].stage, step_config(study, step), str(find_study(study_name)))
    print(yaml.safe_dump(values, sort_keys=False), end="")
    return 0


def export_model(study: str, source: str, step: int | None, folder: str) -> int:
    """Writes a trained model of a study as a Hugging Face folder."""
    from pathlib import Path

    from nanolab.hf_export import export
    from nanolab.trained import load_trained
    subject = load_trained(study, source, step)
    written = export(subject.model, subject.tokenizer, Path(folder), chat=not subject.plain)
    print(f"{subject.facts['name']}: {', '.join(path.name for path in written)} in {folder}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 with one line for a person's mistake."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "stage":
            from nanolab import worker
            return worker.main(given.job, given.run_id)
        if given.command == "export":
            return export_model(given.study, given.source, given.step, given.out)
        if given.command == "plan":
            return show_parameters(given.study, given.set, given.parameters) if given.parameters else show_plan(given.study, given.set)
        if given.command == "data":
            from nanolab.experiment import load_study
            from nanolab.fetch import fetch
            fetch(load_study(given.study, given.set))
            return 0
        if given.command == "report":
            from nanolab import pipeline
            metrics = pipeline.run_stage("report", experiment=given.study).metrics["report"]
            print("\n".join(str(metrics[key]) for key in ("summary", "report") if key in metrics))
            return 0
        if given.dry_run:
            from nanolab.experiment import load_study
            from nanolab.study import select
            return show_plan(given.study, given.set, select(load_study(given.study, given.set), given.only, given.start))
        from nanolab.study import run_study
        return run_study(given.study, given.set, given.only, given.start, given.fresh)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
