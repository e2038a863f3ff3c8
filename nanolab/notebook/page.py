"""An executed notebook as one HTML page: MLflow's UI shows a notebook as its JSON."""

from pathlib import Path


def write_page(notebook: Path) -> Path:
    """Writes the page of a notebook beside it; formulas stay as they are written."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = (
        exporter.mermaid_js_url
    ) = ""  # nothing from the network
    body, _ = exporter.from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page
