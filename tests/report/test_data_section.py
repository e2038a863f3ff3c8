"""Claims: what the tokenizer evaluation records comes back in the report, and a study without it
has none of these lines.
"""

import json
import time
from pathlib import Path

import pytest

from nanolab.figures import style, tokenizer
from nanolab.report import data_section, document, store_values
from nanolab.report.blocks import to_markdown
from nanolab.stages import report as report_stage
from nanolab.tracking import run_writer
from nanolab.tracking.journal import Run
from nanolab.tracking.store import client

GOLDEN = Path(__file__).parent.parent / "golden"
KINDS = [
    {
        "kind": kind,
        "origin": "local, held out" if kind == "prose" else "built-in probe",
        "bytes": size,
        "encoding": encoding,
        "tokens": tokens,
        "bytes_per_token": size / tokens,
    }
    for kind, size in (("prose", 600_000), ("numbers", 600))
    for encoding, tokens in (("this study", size // 3), ("gpt2", size // 4))
]
OVERLAP = [
    {"benchmark": name, "items": 1000, "long_8": 990, "long_13": 900, **hits, "example": example}
    for name, hits, example in (
        (
            "mmlu",
            {
                "text_8": 45,
                "text_13": 1,
                "chats_8": 0,
                "chats_13": None,
                "tasks_8": 3,
                "tasks_13": 0,
            },
            "item 7 = speech:1: we | hold",
        ),
        (
            "gsm8k",
            {"text_8": 0, "text_13": 0, "chats_8": 0, "chats_13": 0, "tasks_8": 0, "tasks_13": 0},
            "",
        ),
    )
]
FOUND = {
    "overlap/text": "31,000,000 characters of 6,454 documents, all there is",
    "overlap/missing": "core (no file tasks.json)",
}


@pytest.fixture
def execution(store):
    """An execution whose tokenizer evaluation recorded its tables and figure as the stage does."""
    parent = run_writer.open_execution({"experiment": "own"}, "own now", "scripts/run_all.py", {})
    start = round(time.time() * 1000)
    run_id = run_writer.open_step(parent, "tok_eval", "0123456789ab", {}, {}, start)
    folder = store / "tables"
    with Run(folder, run_id) as run:
        run.table(KINDS, "bytes_per_token.json")
        run.table(OVERLAP, "overlap.json")
        figure, data = tokenizer.bytes_per_token(KINDS)
        run.figure(figure, "plots/bytes_per_token.png", data)
    for path in (folder / "artifacts").rglob("*.*"):
        place = path.parent.relative_to(folder / "artifacts").as_posix()
        client().log_artifact(run_id, str(path), None if place == "." else place)
    run_writer.log_metrics(
        run_id, {"final/bits_per_char": 2.5, "final/coverage": 96.0, "final/vocabulary_use": 89.75}
    )
    for key, value in (FOUND | {"compared_with": "gpt2"}).items():
        run_writer.set_tag(run_id, f"final/{key}", value)
    run_writer.close_run(run_id, "FINISHED", start + 1000)
    return parent


def test_tables_and_figure_come_back_from_mlflow_into_the_report(execution, tmp_path):
    with Run(tmp_path) as run:
        report_stage.compile_report(execution, tmp_path, run, "A title")
    text = (tmp_path / "report.md").read_text()
    evaluation = text.split("## Tokenizer evaluation\n")[1].split("\n## Base model training")[0]
    assert evaluation.startswith(
        "- bits_per_char: 2.50\n- coverage: 96.0\n- vocabulary use, % of tokens: 89.8\n- compared"
        " with: gpt2\n"
    )
    assert "| prose | local, held out | 600,000 | 3.00 | 4.00 |" in evaluation
    assert (
        "![Bytes per token by kind of text](figures/tok_eval_bytes_per_token.png)\n\n## Data:"
        " overlap" in evaluation
    )
    assert (tmp_path / "figures" / "tok_eval_bytes_per_token.png").stat().st_size > 5000
    assert (
        len((tmp_path / "figures" / "tok_eval_bytes_per_token.csv").read_text().splitlines()) == 5
    )
    assert (
        "| mmlu | 1000 | 1 (0.1%) | 45 (4.5%) | - | 0 | 0 | 3 (0.3%) | item 7 = speech:1: we  "
        " hold |" in evaluation
    )


def test_the_data_section_says_what_was_read_what_is_clean_and_what_is_missing():
    head, _, rows = map(to_markdown, data_section.overlap_section(FOUND | {"overlap": OVERLAP}))
    assert head.splitlines()[1:] == [
        (
            "- training text compared with the benchmarks: 31,000,000 characters of 6,454"
            " documents, all there is"
        ),
        "- no shared run of 8 words or more: gsm8k",
        "- not compared: core (no file tasks.json)",
    ]
    assert len(rows.splitlines()) == 3 and "gsm8k" not in rows
    assert len(data_section.overlap_section({"overlap": OVERLAP[1:]})) == 1


@pytest.mark.parametrize(
    "count, text", [(0, "0"), (1, "1 (0.25%)"), (377, "377 (94%)"), (400, "400 (100%)")]
)
def test_a_share_is_written_in_full(count, text):
    assert data_section.share_of(count, 400) == text


def test_a_study_without_these_records_reports_as_before():
    values = json.loads((GOLDEN / "reference_values.json").read_text())
    assert data_section.overlap_section(values["steps"]["tok_eval"]) == []
    values["steps"]["tok_eval"] |= {"kinds": KINDS, "overlap": OVERLAP}
    report, golden = document.render(values), (GOLDEN / "reference_report.md").read_text()
    added = report.split("\n\n| bytes per token")[1].split("\n\n## Base model training")[0]
    assert report.replace("\n\n| bytes per token" + added, "") == golden
    assert store_values.TABLES == {"kinds": "bytes_per_token.json", "overlap": "overlap.json"}


@pytest.mark.parametrize(
    "rows", [KINDS, KINDS[::2], KINDS[:1], []], ids=["two", "ours alone", "one", "none"]
)
def test_the_figure_shows_every_number_and_fits_half_a_page(rows):
    figure, frame = tokenizer.bytes_per_token(rows)
    assert figure.get_size_inches()[0] == style.SIZE[0] and len(frame) == len(rows)
    assert style.png(figure).startswith(b"\x89PNG")
    (axis,) = figure.axes
    assert sorted(bar.get_height() for bar in axis.patches) == sorted(
        row["bytes_per_token"] for row in rows
    )
    assert len({bar.get_facecolor() for bar in axis.patches}) == len(
        {row["encoding"] for row in rows}
    )
