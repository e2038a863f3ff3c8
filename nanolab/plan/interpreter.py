"""Which Python and which code a study runs: this interpreter, and the package of this clone."""

import os
import sys
from pathlib import Path
from typing import Any

from nanolab.errors import UserError
from nanolab.files import ROOT


def environment() -> dict[str, str]:
    """This process's environment for a Python process that it starts: this clone's package comes
    before others of its name.
    """
    return {**os.environ, "PYTHONPATH": _before(str(ROOT), "PYTHONPATH")}


def kernel_search() -> dict[str, str]:
    """The variable that makes Jupyter find this interpreter's kernel before all others."""
    own = os.path.join(sys.prefix, "share", "jupyter")
    return {"JUPYTER_PATH": _before(own, "JUPYTER_PATH")}


def _before(own: str, variable: str) -> str:
    return os.pathsep.join(filter(None, [own, *os.environ.get(variable, "").split(os.pathsep)]))


def shell() -> Any:
    """The IPython shell that this process is the kernel of; None outside of a kernel."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def check_clone() -> None:
    """Raises UserError in a kernel that stands in one clone and runs the code of another."""
    if shell() is None:
        return
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "nanolab" / "__main__.py").is_file() and (folder / "notebooks").is_dir():
            if folder != ROOT:
                raise UserError(
                    f"this notebook is one of {folder}, but its kernel ({sys.executable}) runs the"
                    f" code of {ROOT}: open it with `make lab` in {folder}, or take {ROOT} out of"
                    " PYTHONPATH"
                )
            return
