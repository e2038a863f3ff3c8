"""The CORE bundle as it is published (a zip), turned into the local layout: core/tasks.json and
core/data/*.jsonl.gz.

It lies at a plain address, not on the hub, and is published without a hash: its length and the
zip's own checksums are verified, and its SHA-256 is kept in core/BUNDLE.json.
"""

import csv
import gzip
import hashlib
import http.client
import io
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from nanolab import files
from nanolab.data.sources.network import ADVICE, reason_of
from nanolab.errors import UserError

ADDRESS = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
ANSWER_SECONDS = 8.0
INDEX, BASELINES, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"  # inside the bundle


def fetch_bundle(core: Path) -> None:
    """Download the bundle (some 30 MB, in memory) and write it as `core`, tasks.json last."""
    try:
        with urllib.request.urlopen(ADDRESS, timeout=ANSWER_SECONDS) as response:
            content = response.read()  # whole, or IncompleteRead
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"the CORE bundle ({ADDRESS}) could not be read ({reason_of(error)}); put tasks.json"
            f" and data/*.jsonl.gz in {core}, leave base_loss and base_eval out of steps, or"
            f" {ADVICE}"
        ) from error
    try:
        convert(content, core)
    except (zipfile.BadZipFile, KeyError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{ADDRESS} is damaged or not a CORE bundle ({reason_of(error)}); it was thrown away,"
            " run the command again"
        ) from error


def convert(content: bytes, core: Path) -> None:
    """Write the tasks of a bundle's core.yaml, with the baselines (percent) of its table.

    Raises BadZipFile, KeyError or ValueError for what is no bundle. A task whose data file is
    absent gets file: null.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        if broken := opened.testzip():
            raise zipfile.BadZipFile(f"{broken} has a wrong checksum")
        (index,) = [name for name in opened.namelist() if PurePosixPath(name).name == INDEX]
        root = PurePosixPath(index).parent
        table = csv.DictReader(io.StringIO(opened.read(str(root / BASELINES)).decode()))
        baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in table}
        tasks: list[dict[str, Any]] = []
        for entry in yaml.safe_load(opened.read(index))["icl_tasks"]:
            uri = entry["dataset_uri"]
            source = str(root / DATA / uri)
            file = None
            if source in opened.namelist():
                file = f"data/{PurePosixPath(uri).stem}.jsonl.gz"
                files.write_atomic(core / file, gzip.compress(opened.read(source), mtime=0))
            task = {
                "name": entry["label"],
                "file": file,
                "dataset_uri": uri,
                "num_fewshot": entry["num_fewshot"][0],
                "icl_task_type": entry["icl_task_type"],
                "continuation_delimiter": entry.get("continuation_delimiter", " "),
                "random_baseline": baselines[entry["label"]],
                "status": "exact" if file else "missing",
            }
            tasks.append(task)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files.write_json(core / "BUNDLE.json", {"address": ADDRESS, **facts})
    files.write_json(core / "tasks.json", tasks)
