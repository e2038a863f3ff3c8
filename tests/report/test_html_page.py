"""Claims: the page says everything that the Markdown says, links each number to its run, and loads
nothing from elsewhere.
"""

import json
import re
import shutil
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanolab import files
from nanolab.report import document, html_overview, html_page, provenance, store_values
from nanolab.report.blocks import Grid, Part, Text
from nanolab.results import Score
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import load_study
from nanolab.stages import report as report_stage
from nanolab.tracking import environment, run_reader, run_writer
from nanolab.tracking.journal import Run

GOLDEN = Path(__file__).parent.parent / "golden"
TASK = {
    "arc_easy": 0.25,
    "arc_easy/low": 0.1,
    "arc_easy/high": 0.45,
    "arc_easy/chance": 0.25,
    "arc_easy/passed": 5,
    "arc_easy/n": 20,
}


class Page(HTMLParser):
    """What a reader of a page sees: its text, its links, the addresses it names, and whether its
    elements close.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.links, self.addresses, self.ids = [], [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [
            given[key] for key in ("href", "src", "srcset", "data", "action") if key in given
        ]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in ("meta", "img", "br", "line", "circle"):
            self.open.append((tag, given))

    def handle_endtag(self, tag):
        if tag not in ("line", "circle"):
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] not in ("style", "script"):
            self.texts.append(data)
            for tag, given in self.open:
                if tag == "a":
                    self.links.setdefault(data, []).append(given)


def log_step(parent, step, final, params=None, seconds=10.0, **tags):
    start = round(time.time() * 1000)
    run_id = run_writer.open_step(parent, step, "0123456789ab", params or {}, tags, start)
    run_writer.log_metrics(
        run_id,
        {f"final/{key}": value for key, value in final.items() if not isinstance(value, str)},
    )
    for key, value in final.items():
        if isinstance(value, str):
            run_writer.set_tag(run_id, f"final/{key}", value)
    run_writer.close_run(run_id, "FINISHED", start + round(seconds * 1000))
    return run_id


@pytest.fixture(scope="module")
def module_store(tmp_path_factory, template_store):
    """A store that the tests of this file share; what they add is an execution of its own."""
    folder = tmp_path_factory.mktemp("html") / "mlruns"
    folder.mkdir()
    shutil.copy(template_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "MLRUNS", folder)
        patch.setenv("NANOLAB_MLRUNS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def execution(module_store):
    """An execution with a training step, an evaluation, power sampling, reinforcement learning and
    a grid.
    """
    facts = environment.unknown()
    facts["hardware"] |= {"gpu_count": 0, "cores": 2, "hourly_rate": None}
    study = to_dict(load_study("smoke", ["experiment=golden"]))
    parent = run_writer.open_execution(
        study, "golden now", "scripts/run_all.py", {"environment.json": json.dumps(facts)}
    )
    runs = {
        "base_train": log_step(
            parent,
            "base_train",
            {"steps": 300, "loss": 1.5, "tokens_per_second": 31928.0, "data": "embedded"},
            seconds=43.0,
        ),
        "chat_eval_sft": log_step(
            parent,
            "chat_eval_sft",
            TASK | {"chat_core": 0.0, "data": "a < b & c"},
            {"source": "sft"},
        ),
    }
    methods = {
        f"{name}/{key}": value
        for name, p in (("greedy", 0.0227), ("plain", 0.0008))
        for key, value in {
            "accuracy": 0.5,
            "passed": 50,
            "total": 100,
            "low": 0.4,
            "high": 0.6,
            "positions_per_problem": 95.0,
            "p_value": p,
        }.items()
    }
    runs["power_eval"] = log_step(
        parent,
        "power_eval",
        {
            "gsm8k": 0.585,
            "passed": 58,
            "total": 100,
            "low": 0.48,
            "high": 0.68,
            "positions_per_problem": 404.0,
            **methods,
        },
        {"source": "sft", "alpha": "4.0"},
    )
    way = {
        "before": 0.5,
        "before_low": 0.4,
        "before_high": 0.6,
        "after": 0.75,
        "after_low": 0.65,
        "after_high": 0.83,
        "n": 100,
        "p_value": 1e-7,
    }
    runs["rl"] = log_step(
        parent,
        "rl",
        {"status": "finished", **{f"greedy/{key}": value for key, value in way.items()}},
    )
    runs["power_ablation"] = log_step(parent, "power_ablation", {"points": 1})
    runs["point"] = run_writer.open_point(
        runs["power_ablation"], "alpha=4", round(time.time() * 1000)
    )
    run_writer.log_params(
        runs["point"], {"method": "power", "alpha": 4.0, "temperature": 0.7, "num_steps": 2}
    )
    run_writer.log_metrics(
        runs["point"],
        {
            "accuracy": 0.4321,
            "passed": 43,
            "total": 100,
            "low": 0.3,
            "high": 0.5,
            "positions_per_problem": 90.0,
        },
    )
    return parent, runs


@pytest.fixture(scope="module")
def compiled(execution, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with Run(folder) as run:
        metrics = report_stage.compile_report(execution[0], folder, run, "A <title>")
    return execution, folder, metrics, (folder / "report.html").read_text()


def test_everything_that_the_markdown_says_stands_in_the_page(compiled):
    _, folder, _, text = compiled
    page = Page(text)
    assert page.open == []  # every element closes
    seen = unescape(" ".join(page.texts))
    for line in (folder / "report.md").read_text().splitlines():
        cells = (
            line.strip("|- ").split("|")
            if line.startswith("|")
            else [line.lstrip("#- ").replace(": ", "|", 1)]
        )
        for cell in (part for whole in cells for part in whole.split("|")):
            if not line.startswith(("![", "|-")) and cell.strip(" -"):
                assert cell.strip() in seen, line


def test_the_reference_values_alone_make_a_page_of_the_same_blocks(tmp_path):
    """Nothing but what `document.render` needs: no run to link to, no plan."""
    values = json.loads((GOLDEN / "reference_values.json").read_text())
    seen = unescape(
        " ".join(Page(html_page.render(values, tmp_path, "http://127.0.0.1:5000")).texts)
    )
    for block in document.contents(values):
        if isinstance(block, Part):
            assert block.heading in seen and all(
                item.label in seen and item.text in seen for item in block.items
            )
        elif isinstance(block, Grid):
            assert all(cell in seen for row in (block.header, *block.rows) for cell in row)
        elif isinstance(block, Text) and not block.text.startswith("Generated"):
            assert block.text in seen
    assert "3h51m" in seen and "Provenance" not in seen


def test_numbers_link_to_their_runs_and_name_them(compiled):
    (parent, runs), _, _, text = compiled
    page, experiment = Page(text), run_reader.record(compiled[0][0]).experiment_id

    def hrefs(shown):
        return {given["href"] for given in page.links[shown]}

    def address(name):
        return f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{runs.get(name, name)}"

    assert hrefs("31928") == {address("base_train")} and hrefs("0.2500") == {
        address("chat_eval_sft")
    }
    assert hrefs("0.5850") == {address("power_eval")} and hrefs("0.4321") == {address("point")}
    assert address(parent) in hrefs("golden now")
    assert (
        page.links["31928"][0]["title"]
        == f"run base_train ({runs['base_train']}), tokens_per_second"
    )


def test_the_page_loads_nothing_and_links_to_the_server_that_holds_the_runs(compiled):
    _, folder, _, text = compiled
    page = Page(text)
    outside = [
        address
        for address in page.addresses
        if not address.startswith(("#", "data:image/png;base64,"))
    ]
    assert outside and all(address.startswith("http://127.0.0.1:5000/#/") for address in outside)
    assert not re.search(r"url\(|@import|<link|fetch\(", text)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert text.count("data:image/png;base64,") == len(list((folder / "figures").glob("*.png"))) > 0
    values = store_values.collect(compiled[0][0]) | {"title": "t"}
    assert "https://team.example/mlflow/#/experiments/" in html_page.render(
        values, folder, "https://team.example/mlflow/"
    )


def test_markup_in_values_is_shown_not_run(compiled):
    assert (
        "A &lt;title&gt;" in compiled[3]
        and "a &lt; b &amp; c" in compiled[3]
        and "a < b" not in compiled[3]
    )


def test_the_overview_has_intervals_paired_tests_and_the_plan_beside_the_actual_cost(compiled):
    page = Page(compiled[3])
    text = " ".join(page.texts)
    assert (
        text.index("Power sampling beside the other methods")
        < text.index("Plan and actual cost")
        < text.index("Git Information")
    )
    assert (
        "0.5850, 95% interval 0.4800 to 0.6800" in text
        and "0.0227" in text
        and "0.0008" in text
        and "1e-07" in text
    )
    values = store_values.collect(compiled[0][0])
    row = next(row for row in values["costs"]["rows"] if row["step"] == "base_train")
    assert values["costs"]["machine"] == "cpu" and row["hours"] == pytest.approx(43 / 3600)
    assert row["planned_hours"] == pytest.approx(43 / 3600, rel=0.1) and row[
        "flops"
    ] == pytest.approx(4.7e12, rel=0.05)
    assert "Planned for cpu" in text and "31.9k" in text


FACTS = environment.unknown()["hardware"]
H100 = FACTS | {"gpu_count": 8, "gpu_name": "NVIDIA H100 80GB HBM3", "hourly_rate": 24.0}


@pytest.mark.parametrize(
    "hardware, launch, machine, rate",
    [
        (H100, ["launch.nproc=8"], "8xH100", 24.0),
        (H100, ["launch.nproc=2"], "2xH100", 6.0),
        (H100, ["launch.nproc=16"], "8xH100", 24.0),
        (
            H100,
            ["launch.nproc=8", "launch.nnodes=2", "launch.rdzv_endpoint=first:29500"],
            "16xH100",
            48.0,
        ),
        (H100, ["launch.device=cpu"], "cpu", 0.5),
        (FACTS | {"gpu_count": 0}, [], "cpu", 0.5),
        (FACTS, [], "", None),
        (H100 | {"gpu_name": "Some GPU", "hourly_rate": None}, [], "", None),
    ],
)
def test_plan_and_dollars_are_those_of_the_devices_that_the_study_uses(
    module_store, hardware, launch, machine, rate
):
    """Not of every GPU that the machine has; and a CPU has a rate too, if the study states one."""
    study = to_dict(load_study("smoke", ["experiment=golden", *launch])) | {
        "hourly_rates": {"cpu": 0.5, "H100": 3.0}
    }
    parent = run_writer.open_execution(study, "golden now", "scripts/run_all.py", {})
    facts = environment.unknown() | {"hardware": hardware}
    run = run_reader.record(log_step(parent, "sft", {"loss": 2.0}, seconds=3600.0))
    found = provenance.planned_and_spent(run_reader.record(parent), {"sft": run}, facts)
    (row,) = found["rows"]
    assert found["machine"] == machine and row["dollars"] == (
        None if rate is None else pytest.approx(rate)
    )
    assert row["planned_dollars"] == (
        pytest.approx(row["planned_hours"] * rate) if machine else None
    )


def test_the_row_of_all_steps_sums_nothing_that_a_step_lacks():
    row = {
        "step": "sft",
        "hours": 1.0,
        "planned_hours": 2.0,
        "flops": 1e15,
        "planned_dollars": 4.0,
        "dollars": 2.5,
        "tokens_per_second": None,
        "planned_gib": 1.0,
        "peak_gib": None,
        "memory_of": "",
    }
    outside = row | {
        "step": "power_eval",
        **dict.fromkeys(("planned_hours", "flops", "planned_dollars", "planned_gib")),
    }

    def last(rows):
        links = SimpleNamespace(of=lambda step, text, key: text)
        page = html_overview.cost({"costs": {"machine": "cpu", "source": "x", "rows": rows}}, links)
        return re.findall(r"<td[^>]*>(?:<b>)?([^<]*)", page.split("<tr>")[-1])

    assert last([row, row]) == [
        "all",
        "4h00m",
        "2h00m",
        "0.50",
        "2.0e+15",
        "-",
        "-",
        "8.00",
        "5.00",
    ]
    assert last([row, outside]) == ["all", "-", "2h00m", "-", "-", "-", "-", "-", "5.00"]


def test_an_execution_without_settings_has_times_and_no_plan(module_store, tmp_path):
    parent = run_writer.open_execution(
        {"experiment": "golden", "colour": "red"}, "golden now", "scripts/run_all.py", {}
    )
    log_step(parent, "sft", {"loss": 2.0})
    values = store_values.collect(parent)
    assert values["costs"]["machine"] == "" and values["costs"]["rows"][0]["planned_hours"] is None
    assert "No plan stands beside these times" in html_page.render(values, tmp_path, "http://x")


def test_recorded_system_metrics_are_the_peak_memory(module_store):
    parent = run_writer.open_execution(
        {"experiment": "golden"}, "golden now", "scripts/run_all.py", {}
    )
    run_id, now = log_step(parent, "sft", {"loss": 2.0}), round(time.time() * 1000)
    key = "system/processes_memory_megabytes"
    run_writer.log_curves(
        run_id, [(key, value, now, step) for step, value in enumerate((900, 2147.5, 800))]
    )
    (row,) = store_values.collect(parent)["costs"]["rows"]
    assert row["peak_gib"] == pytest.approx(2.0, abs=0.01) and row["memory_of"] == key


def test_a_step_of_another_execution_is_said_to_be_reused(execution):
    parent = run_writer.open_execution(
        {"experiment": "golden"}, "golden later", "scripts/run_all.py", {}
    )
    run_writer.set_tag(parent, "reused.base_train", execution[1]["base_train"])
    origins = store_values.collect(parent)["origins"]
    assert origins["base_train"]["reused"] and not origins["execution"]["reused"]
    assert origins["base_train"]["run_id"] == execution[1]["base_train"] and origins["base_train"][
        "seconds"
    ] == pytest.approx(43)


def test_all_three_files_are_recorded_with_the_step_and_its_execution(compiled):
    (parent, _), folder, metrics, _ = compiled
    assert {"report.md", "report.html", "results.csv"} <= set(run_reader.artifact_names(parent))
    assert {"report.md", "report.html", "results.csv"} <= {
        path.name for path in (folder / "artifacts").iterdir()
    }
    assert [Path(metrics[key]).name for key in ("report", "html", "results")] == [
        "report.md",
        "report.html",
        "results.csv",
    ]


def test_an_interval_is_drawn_to_scale():
    drawn = html_overview.interval(Score("accuracy", 0.5, low=0.25, high=0.75, chance=0.25))
    assert 'x1="32.0" x2="88.0"' in drawn and 'cx="60.0"' in drawn and drawn.count("<line") == 3
    assert html_overview.interval(Score("accuracy", 0.5)) == ""
    assert html_overview.span_of(
        [Score("accuracy", 0.5, low=0.41, high=0.58), Score("accuracy", 0.5)]
    ) == (0.4, 0.6)
