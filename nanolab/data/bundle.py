"""The CORE bundle as it is published (a zip), turned into the local layout: core/tasks.json and core/data/*.jsonl.gz.

It is published without a hash: its size and the zip's own checksums are verified, and its SHA-256 is kept in core/BUNDLE.json.
"""

from __future__ import annotations

import csv
import gzip
import io
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from nanolab import files
from nanolab.data.download import (
    ADVICE,
    LISTING_SECONDS,
    NETWORK_ERRORS,
    HubFile,
    download,
    reason_of,
)
from nanolab.schema import UserError

ADDRESS = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
INDEX, BASELINES, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"  # inside the bundle


def fetch_bundle(core: Path) -> None:
    """Download the bundle and write it as `core`, tasks.json last; UserError when it cannot be had or is damaged."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(ADDRESS, method="HEAD"), timeout=LISTING_SECONDS
        ) as response:
            size = int(response.headers["Content-Length"])
    except (*NETWORK_ERRORS, TypeError, ValueError) as error:
        raise UserError(
            f"the CORE bundle ({ADDRESS}) could not be read ({reason_of(error)}); put tasks.json and data/*.jsonl.gz in "
            f"{core}, leave base_loss and base_eval out of steps, or {ADVICE}"
        ) from error
    path = core / "eval_bundle.zip"
    download(HubFile(ADDRESS, path.name, size), path)
    try:
        convert(path, core)
    except (zipfile.BadZipFile, KeyError, ValueError, yaml.YAMLError) as error:
        path.unlink()
        raise UserError(
            f"{ADDRESS} is damaged or not a CORE bundle ({reason_of(error)}); it was thrown away, run the command again"
        ) from error
    path.unlink()


def convert(bundle: Path, core: Path) -> None:
    """Write the tasks of a bundle's core.yaml, with the baselines (percent) of its table, in the local layout.

    Raises BadZipFile, KeyError or ValueError for what is no bundle. A task whose data file is absent gets file: null.
    """
    with zipfile.ZipFile(bundle) as opened:
        broken = opened.testzip()
        if broken:
            raise zipfile.BadZipFile(f"{broken} has a wrong checksum")
        (index,) = [name for name in opened.namelist() if PurePosixPath(name).name == INDEX]
        root = PurePosixPath(index).parent
        table = csv.DictReader(io.StringIO(opened.read(str(root / BASELINES)).decode()))
        baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in table}
        tasks: list[dict[str, Any]] = []
        for entry in yaml.safe_load(opened.read(index))["icl_tasks"]:
            source = str(root / DATA / entry["dataset_uri"])
            name = (
                f"data/{PurePosixPath(entry['dataset_uri']).stem}.jsonl.gz"
                if source in opened.namelist()
                else None
            )
            if name:
                files.write_atomic(core / name, gzip.compress(opened.read(source), mtime=0))
            tasks.append(
                {
                    "name": entry["label"],
                    "file": name,
                    "dataset_uri": entry["dataset_uri"],
                    "num_fewshot": entry["num_fewshot"][0],
                    "icl_task_type": entry["icl_task_type"],
                    "continuation_delimiter": entry.get("continuation_delimiter", " "),
                    "random_baseline": baselines[entry["label"]],
                    "status": "exact" if name else "missing",
                }
            )
    files.write_json(
        core / "BUNDLE.json",
        {"address": ADDRESS, "bytes": bundle.stat().st_size, "sha256": files.sha256_file(bundle)},
    )
    files.write_json(core / "tasks.json", tasks)
