"""The rows of tests/data/rows/ (written for these tests, in the public schemas with their odd
cases) as a folder of the local layout.
"""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

ROWS = Path(__file__).parent / "rows"


def write_parquet(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


def own_rows(name):
    """The rows of a file of tests/data/rows, such as "openai/gsm8k/main/test"."""
    return [json.loads(line) for line in (ROWS / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def own_folder(tmp_path):
    root = tmp_path / "own"
    for path in ROWS.rglob("*.jsonl"):
        name = path.relative_to(ROWS).with_suffix("")
        write_parquet(root / f"{name}.parquet", own_rows(name))
    return root


@pytest.fixture
def rows_of():
    return own_rows


@pytest.fixture
def to_parquet():
    return write_parquet
