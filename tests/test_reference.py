"""Claims: everything public has a docstring, the API reference builds, the page of settings is
current, the citation is whole.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nanolab.files import ROOT


def undocumented(path: Path) -> list[str]:
    """Public modules, classes, functions and methods of a file without a docstring, but for methods
    that a base class explains.
    """
    tree = ast.parse(path.read_text())
    missing = [] if ast.get_docstring(tree) or not tree.body else [path.stem]

    def look(node: ast.AST, name: str, inherits: bool) -> None:
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith(
                "_"
            ):
                if not ast.get_docstring(child) and not inherits:
                    missing.append(f"{path.name}: {name}{child.name}")
                if isinstance(child, ast.ClassDef):
                    look(child, f"{child.name}.", bool(child.bases))

    look(tree, "", False)
    return missing


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "nanolab").rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT / "nanolab")),
)
def test_everything_public_has_a_docstring(path):
    assert not undocumented(path)


def test_the_api_reference_builds(tmp_path):
    """One module that imports nothing slow; `make docs` makes all of it."""
    pdoc = pytest.importorskip("pdoc", reason="the extra docs is not installed")
    pdoc.pdoc("nanolab.seeds", "nanolab.statistics", output_directory=tmp_path)
    assert "def uniform" in re.sub("<.*?>", "", (tmp_path / "nanolab" / "seeds.html").read_text())
    assert "pdoc" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("script", ["write_settings_page", "fill_readme"])
def test_what_a_script_writes_into_the_documentation_is_current(script):
    command = [sys.executable, f"scripts/{script}.py", "--check"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, f"{done.stderr}run {shlex.join(command[1:-1])}"


def test_the_citation_file_has_what_the_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(citation[key] for key in ("message", "title", "authors", "license"))
    for entry in [citation, *citation["references"]]:
        assert all("name" in author or "family-names" in author for author in entry["authors"])
    assert any(
        one.get("value") == "2510.14901"
        for reference in citation["references"]
        for one in reference.get("identifiers", [])
    )
