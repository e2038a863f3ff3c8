"""`ui`: the MLflow UI of this store, on a port that is free; `lab`: JupyterLab on the notebooks,
with this interpreter and the code of this clone. Each becomes the server; Ctrl-C ends it.
"""

import argparse
import errno
import os
import sys
import tempfile

from nanolab.errors import UserError


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: a number from 1 to 65535")
    return int(text)


def ui_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ui`."""
    parser.add_argument("--port", type=_port, default=5000, help="default: 5000")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")


def ui(given: argparse.Namespace) -> int:
    """Becomes the MLflow UI, after it said where a browser finds the newest study."""
    from nanolab.pipeline import doctor
    from nanolab.tracking import run_reader, views
    from nanolab.tracking.address import is_server, store_uri
    from nanolab.tracking.store import client

    uri = store_uri()
    if is_server(uri):
        raise UserError(f"the store is a server: open {uri} (MLFLOW_TRACKING_URI names it)")
    if error := doctor.port_fault(given.host, given.port):
        line = f"port {given.port} of {given.host} cannot be opened"
        if error.errno != errno.EADDRINUSE:
            raise UserError(f"{line}: {error.strerror}") from error
        raise UserError(
            f"{line} ({error.strerror}), it is taken by {doctor.holder(given.port)}: stop that,"
            f" or take another port: make ui PORT={given.port + 1}"
        ) from error
    client()  # makes the store where there is none yet
    # MLflow imports a part of its web framework that is to go one day: nothing that whoever looks
    # at runs could mend
    known = "ignore::UserWarning:mlflow.server.fastapi_app"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), known)))
    # its eight processes for jobs of its own that no study uses: without them it takes 0.5 GiB
    # instead of 2.5
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # on the command line everybody sees a password
    server = f"http://{given.host}:{given.port}"
    print(f"{server}   (Ctrl-C ends it)", flush=True)
    if newest := run_reader.newest_study():  # MLflow's own first pages lead elsewhere
        page = views.page(newest[1], views.STEPS)
        print(f"the steps of {newest[0]}: {server}/{page}", flush=True)
    command = f"-m mlflow ui --host {given.host} --port {given.port} --workers 1"
    os.execv(sys.executable, [sys.executable, *command.split()])


def lab_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `lab`."""
    parser.add_argument("--port", type=_port, help="default: 8888, or the next one that is free")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")


def lab(given: argparse.Namespace) -> int:
    """Becomes JupyterLab."""
    import importlib.util

    from nanolab.files import ROOT
    from nanolab.plan import interpreter

    if importlib.util.find_spec("jupyterlab") is None:
        raise UserError(f"JupyterLab is not installed for {sys.executable}: run `make setup`")
    command = [sys.executable, "-m", "jupyterlab", str(ROOT / "notebooks" / "00_start_here.ipynb")]
    command += [f"--port={given.port}"] if given.port else []
    command += ["--no-browser"] if given.no_browser else []
    if os.geteuid() == 0:  # as in most containers: Jupyter refuses it without the option
        print("JupyterLab runs as root: it is open to this machine only", flush=True)
        command += ["--allow-root", "--ip=127.0.0.1"]
    environment = interpreter.environment() | interpreter.kernel_search()
    if not os.access(os.path.expanduser("~"), os.W_OK):  # of a user id that a container is given
        environment["HOME"] = tempfile.mkdtemp(prefix="nanolab-home-")
        print(
            "this user has no home folder that can be written: JupyterLab keeps its settings in "
            f"{environment['HOME']}",
            flush=True,
        )
    os.chdir(ROOT)
    os.execve(sys.executable, command, environment)
