"""A browser, a folder for its pictures, and the functions of scripts/screenshots.py that drive
them.
"""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def driver():
    """scripts/screenshots.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "screenshots", ROOT / "scripts" / "screenshots.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def browser(driver):
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is missing: pip install -e '.[test]'")
    if not Path(driver.CHROMIUM).exists():
        pytest.skip(
            f"no Chromium at {driver.CHROMIUM}: install it (apt-get install chromium), or set"
            " CHROMIUM"
        )
    with driver.open_browser() as context:
        yield context


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Where the screenshots of this run are kept: NANOLAB_SCREENSHOTS, else pytest's own folder."""
    folder = Path(
        os.environ.get("NANOLAB_SCREENSHOTS") or tmp_path_factory.getbasetemp() / "screenshots"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
