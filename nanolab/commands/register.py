"""`register`: registers a study's best chat model in MLflow, under the alias `best`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")


def main(given: argparse.Namespace) -> int:
    """Registers the model, and prints its version and how to serve it."""
    from nanolab import registry, tracking
    from nanolab.plan import experiment_name

    done = registry.register(experiment_name(given.study))
    print(
        f"{done.line}\nserve it (with the environment's bin folder on the PATH, for MLflow starts uvicorn from there):\n"
        f"  MLFLOW_TRACKING_URI={tracking.store_uri()} mlflow models serve -m {done.uri} --env-manager local --port 5001"
    )
    return 0
