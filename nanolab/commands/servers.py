"""`ui`: the MLflow UI of this store, on a port that is free; `lab`: JupyterLab on the notebooks,
with this interpreter and the code of this clone; `serve`: a model behind OpenAI's interface. Each
becomes the server; Ctrl-C ends it.
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


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to 4096")
    return int(text)


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `serve`."""
    add = parser.add_argument
    text = "experiments/NAME.yaml or NAME, or a model from outside (hf:FOLDER, ...);"
    add("model", nargs="?", help=f"{text} default: the newest study with a chat model")
    text = "base, mid, sft or rl of the study; default: sft, else the best that is there"
    add("--source", metavar="MODEL", help=text)
    add("--step", type=int, metavar="N", help="checkpoint step; default: the finished one")
    add("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    add("--port", type=_port, default=8000, help="default: 8000")
    text = "that clients must send; better in the variable NANOLAB_API_KEY, which `ps` never shows"
    add("--key", help=text)
    add("--max-rows", type=_count, default=32, help="answers drawn together; default: 32")
    add("--max-queue", type=_count, default=128, help="answers that may wait; default: 128")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")


def serve(given: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    from nanolab import dist
    from nanolab.pipeline import doctor
    from nanolab.server import listening

    dist.check_device(given.device, "--device")
    key = listening.chosen_key(given.host, given.key)
    with listening.listen(given.host, given.port, doctor.holder) as listener:
        from nanolab.server.answers import Served
        from nanolab.server.app import make_app

        served = Served(*_subject(given), given.max_rows, given.max_queue)
        host = f"[{given.host}]" if ":" in given.host else given.host
        address = f"http://{host}:{given.port}/v1"
        print(f"{served.name} at {address}   (Ctrl-C ends it)", flush=True)
        listening.run(make_app(served, key, listening.hosts_of(given.host)), listener)
    return 0


def _subject(given: argparse.Namespace) -> tuple[object, str]:
    """The model, and the name that clients ask for."""
    from nanolab.chat.trained import load_for_chat
    from nanolab.settings.model_source import anchored, is_outside

    if not is_outside(given.model):
        subject, name = load_for_chat(given.model, given.source, given.step, given.device)
        study = name.partition(",")[0]
        return subject, f"{study}/{subject.source}"
    if given.source or given.step is not None:
        raise UserError(f"--source and --step choose a model of a study, and {given.model} is none")
    return load_for_chat(None, anchored(given.model), None, given.device)
