"""`ui`: the MLflow UI of this store, on a port that is free."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--port", type=_port, default=5000, help="default: 5000")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: a number from 1 to 65535")
    return int(text)


def main(given: argparse.Namespace) -> int:
    """Becomes the server; Ctrl-C ends it."""
    import errno
    import os
    import socket
    import sys

    from nanolab import doctor, tracking, tracking_views
    from nanolab.schema import UserError

    uri = tracking.store_uri()
    if uri.startswith(("http://", "https://")):
        raise UserError(f"the store is a server: open {uri} (MLFLOW_TRACKING_URI names it)")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((given.host, given.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"port {given.port} of {given.host} cannot be opened: {error.strerror}"
                ) from error
            raise UserError(
                f"port {given.port} of {given.host} cannot be opened ({error.strerror}), it is taken by "
                f"{doctor.holder(given.port)}: stop that, or take another port: make ui PORT={given.port + 1}"
            ) from error
    tracking.client()  # makes the store where there is none yet
    # MLflow imports a part of its web framework that is to go one day: nothing that whoever looks at runs could mend
    known = "ignore::UserWarning:mlflow.server.fastapi_app"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), known)))
    # its eight processes for jobs of its own that no study uses: without them it takes 0.5 GiB instead of 2.5
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    server = f"http://{given.host}:{given.port}"
    print(f"{server}   (Ctrl-C ends it)", flush=True)
    if newest := tracking.newest_study():  # MLflow's own first pages lead elsewhere
        print(
            f"the steps of {newest[0]}: {server}/{tracking_views.page(newest[1], tracking_views.STEPS)}",
            flush=True,
        )
    os.execv(
        sys.executable,
        [
            sys.executable,
            "-m",
            "mlflow",
            "ui",
            "--backend-store-uri",
            uri,
            "--host",
            given.host,
            "--port",
            str(given.port),
            "--workers",
            "1",
        ],
    )
