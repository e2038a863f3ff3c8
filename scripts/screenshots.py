"""Takes the pictures of README and docs from a store: `python scripts/screenshots.py [STUDY]
[--store mlruns] [--out docs/images]`.

STUDY (default smoke) must be finished in the store, which is not written to: a copy of its database
is served. Needs playwright and Chromium (a path in CHROMIUM, else /usr/bin/chromium); tests/browser
uses the same functions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("google-chrome")
    or "chromium, which is on no path"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUIET = (  # no panel over the page on the first visit
    "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
    "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
)
WAIT = 120_000  # milliseconds for a page to show what it must, on a busy machine
COLOURS = 128  # of a picture


@contextlib.contextmanager
def open_browser(width: int = 1440, height: int = 900) -> Iterator[Any]:
    """A headless Chromium with a fresh profile, whose pages wait patiently."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": width, "height": height},
        )
        context.set_default_timeout(WAIT)
        context.add_init_script(QUIET)
        try:
            yield context
        finally:
            context.close()


@contextlib.contextmanager
def served(
    command: list[str], health: str, environment: dict[str, str], log: Path
) -> Iterator[str]:
    """Runs a server at a free port ("PORT" in its command) until the block ends; gives its address
    once `health` answers.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [part.replace("PORT", str(port)) for part in command],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **environment},
        )
    try:
        deadline = time.monotonic() + WAIT / 1000
        while True:
            try:
                urllib.request.urlopen(address + health, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{command[2]} does not answer; its log:\n{log.read_text()[-2000:]}"
                    ) from None
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def mlflow_ui(store: Path, folder: Path) -> Iterator[str]:
    """The MLflow UI of a store; its database is copied into `folder`, so that looking changes
    nothing.
    """
    import sqlite3

    copy = folder / "mlflow.db"
    source, target = sqlite3.connect(store / "mlflow.db"), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{copy}", "PYTHONPATH": str(ROOT)}
    with served(
        [sys.executable, "-m", "nanolab", "ui", "--port", "PORT"],
        "/health",
        environment,
        folder / "ui.log",
    ) as address:
        yield address


@contextlib.contextmanager
def jupyter_lab(folder: Path, store: Path) -> Iterator[str]:
    """JupyterLab over the notebooks of a folder; what they run goes into `store`."""
    settings = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True})
    )
    environment = {
        "NANOLAB_MLRUNS": str(store),
        "PYTHONPATH": str(ROOT),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "IPYTHONDIR": str(folder / ".ipython"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--port=PORT",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
    ]
    with served(command, "/api", environment, folder / "lab.log") as address:
        yield address


def study_pages(study: str) -> dict[str, str]:
    """The parts of an address after the UI's own: a study's views, the newest run of each step, a
    comparison of its grid points.
    """
    from nanolab.tracking import run_reader, run_writer, views

    number = run_writer.experiment_id(study)
    found = {
        "steps": views.page(number, views.STEPS),
        "tree": views.page(number, views.TREE),
        "ablation": views.page(number, views.GRID, charts=True),
    }
    for run in run_reader.search(study, "tags.latest = 'true'"):
        found[f"run {run.tags['step']}"] = f"#/experiments/{number}/runs/{run.id}"
        if run.tags["step"] == "power_ablation":
            found["compare"] = views.compare_page(
                number, [point.id for point in run_reader.children(run.id)]
            )
    return found


def run_notebook(browser: Any, address: str, name: str) -> Any:
    """Opens a notebook in JupyterLab, runs all its cells, and gives the page once it shows a
    figure.
    """
    page = browser.new_page()
    page.goto(f"{address}/lab/tree/{name}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text(
        "| Idle"
    ).first.wait_for()  # JupyterLab drops what is run before the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-OutputArea-output img").first.wait_for()
    return page


def with_parameters(notebook: Path, target: Path, values: dict[str, Any]) -> None:
    """Copies a notebook with other values in its parameters cell."""
    content = json.loads(notebook.read_text())
    for cell in content["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            for key, value in values.items():
                line = f"{key} = {value!r}".replace("\\", r"\\")
                source, count = re.subn(rf"(?m)^{key} = .*?(?=  #|$)", line, source)
                assert count == 1, key
            cell["source"] = source
    target.write_text(json.dumps(content))


def optimise(path: Path) -> None:
    """Rewrites a PNG with a palette of few colours, a third of its size or less."""
    from PIL import Image

    image = (
        Image.open(path)
        .convert("RGB")
        .quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    image.save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", default="smoke")
    parser.add_argument("--store", type=Path, default=ROOT / "mlruns")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["NANOLAB_MLRUNS"] = str(given.store.absolute())  # before nanolab is imported
    pages = study_pages(given.study)
    pictures = []
    with tempfile.TemporaryDirectory() as temporary, open_browser() as browser:
        folder = Path(temporary)
        with mlflow_ui(given.store, folder) as address:
            for key, shown in {"steps": "01 tok_train", "ablation": "Parallel Coordinates"}.items():
                page = browser.new_page()
                page.goto(f"{address}/{pages[key]}")
                page.get_by_text(shown).first.wait_for()
                page.wait_for_timeout(3000)  # colours of the rows, fonts, the plot's last drawing
                pictures.append(given.out / f"mlflow_{key}.png")
                page.screenshot(path=pictures[-1])
                page.close()
        work = shutil.copytree(ROOT / "notebooks", folder / "lab")
        name = "12_one_chain.ipynb"  # it reads records and runs nothing
        with_parameters(ROOT / "notebooks" / name, work / name, {"experiment": given.study})
        with jupyter_lab(work, given.store.absolute()) as address:
            page = run_notebook(browser, address, name)
            page.locator(".jp-OutputArea-output img").first.evaluate(
                "image => image.scrollIntoView()"
            )
            page.wait_for_timeout(3000)
            pictures.append(given.out / "notebook.png")
            page.screenshot(path=pictures[-1])
    for path in pictures:
        optimise(path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
