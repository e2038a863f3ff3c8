"""A notebook in JupyterLab, run from its first cell to its figures in a real browser."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TINY = {
    "vocab_size": 300,
    "max_chars": 20000,
    "eval_chars": 5000,
    "overlap_chars": 10000,
    "experiment": "micro",
}


def test_a_notebook_runs_its_stage_to_its_figures(store, driver, browser, pictures, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    driver.with_parameters(
        driver.ROOT / "notebooks" / "01_tokenizer.ipynb", folder / "01_tokenizer.ipynb", TINY
    )
    with driver.jupyter_lab(folder, store) as address:
        page = driver.run_notebook(browser, address, "01_tokenizer.ipynb")
        page.locator(".jp-OutputArea-output img").first.scroll_into_view_if_needed()
        page.screenshot(path=pictures / "jupyterlab.png")
        shown = page.locator(".jp-Notebook").inner_text()
        assert "compression_ratio" in shown and "Traceback" not in shown
    assert list((store / "work" / "micro" / "tok_eval").glob("*/result.json"))
