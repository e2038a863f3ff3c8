"""What a researcher sees of a finished study in the MLflow UI, in a real browser."""

import pytest

from nanolab import files
from nanolab.settings.study_file import load_study

pytestmark = [pytest.mark.browser, pytest.mark.slow]
STEPS = [f"{number:02d} {step}" for number, step in enumerate(load_study("micro").steps, 1)]


def run_names(page) -> list[str]:
    """The names in the runs table, from the top."""
    rows = (
        page.locator(".ag-pinned-left-cols-container .ag-row").filter(has=page.locator("a")).all()
    )
    named = sorted(
        (int(row.get_attribute("row-index")), row.locator("a").first.inner_text()) for row in rows
    )
    return [name for _, name in named]


def test_the_ui_shows_a_study_as_steps_as_a_tree_and_its_ablation(
    finished_study, driver, browser, pictures, tmp_path, monkeypatch
):
    store, _ = finished_study
    monkeypatch.setattr(files, "MLRUNS", store)
    pages = driver.study_pages("micro")
    with driver.mlflow_ui(store, tmp_path) as address:
        assert "Warning" not in (tmp_path / "ui.log").read_text()
        page = browser.new_page()
        page.set_viewport_size({"width": 1600, "height": 1400})

        def look(where: str, shown: str, picture: str = "") -> None:
            page.goto("about:blank")  # the routes differ behind "#" only, which alone loads nothing
            page.goto(f"{address}/{where}")
            page.get_by_text(shown).first.wait_for()
            if picture:
                page.screenshot(path=pictures / f"{picture}.png")

        look(pages["steps"], STEPS[-1], "mlflow_steps")
        assert run_names(page) == STEPS
        header = page.locator(".ag-header").inner_text()
        assert "result" in header and "Dataset" in header
        assert "bytes a token" in page.locator(".ag-center-cols-container").inner_text()

        look(pages["tree"], "GSM8K: base")
        page.locator(
            ".ag-pinned-left-cols-container .ag-row button"
        ).first.click()  # the plus sign before the execution
        page.get_by_text(STEPS[-1]).first.wait_for()
        names = run_names(page)
        assert names[0].startswith("micro 20") and names[1:] == STEPS
        assert {"accuracy", "positions_per_problem"} <= set(
            page.locator(".ag-header").inner_text().split()
        )
        page.screenshot(path=pictures / "mlflow_tree.png")

        look(pages["ablation"], "Parallel Coordinates")
        for axis in (
            "method",
            "alpha",
            "temperature",
            "num_steps",
            "samples",
            "positions_per_problem",
            "accuracy",
        ):
            page.get_by_text(axis, exact=True).first.wait_for()
        text = page.locator("body").inner_text()
        assert "α=4 T=.7" in text and "majority n=2" in text
        page.screenshot(path=pictures / "mlflow_ablation.png")

        look(pages["compare"], "Comparing 11 Runs", "mlflow_compare")
        page.get_by_text("num_steps").first.wait_for()
        chosen = page.locator("[class*=selection-item-content]").all_inner_texts()
        assert chosen == ["alpha", "method", "num_steps", "accuracy"]  # what the UI picks by itself

        look(pages["run power_ablation"], "executed notebook", "mlflow_run")
        with browser.expect_page() as opened:  # links open a page of their own
            page.get_by_role("link", name="executed notebook").first.click()
        notebook = opened.value
        notebook.frame_locator("iframe").get_by_text("Power sampling ablations").first.wait_for()
        notebook.screenshot(path=pictures / "mlflow_notebook.png")
        notebook.close()
        with browser.expect_page() as opened:
            page.get_by_role("link", name="report", exact=True).first.click()
        report = opened.value
        content = report.frame_locator("iframe") if ".html" in report.url else report
        content.get_by_role("heading", name="Power sampling evaluation").first.wait_for()
        report.screenshot(path=pictures / "mlflow_report.png")
        report.close()
        look(
            pages["run mid_train"] + "/system-metrics",
            "cpu_utilization_percentage",
            "mlflow_system_metrics",
        )
