"""Where the server listens, whom it lets in, and how it ends."""

import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable

from nanolab.errors import UserError
from nanolab.server.gate import LOOPBACK

VARIABLE = "NANOLAB_API_KEY"
LAST_SECONDS = 2  # that answers in progress get when the server ends


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def chosen_key(host: str, given: str | None) -> str | None:
    """The key that clients must have: --key, else the variable; UserError where other machines
    reach the server and there is none.
    """
    key = os.environ.get(VARIABLE) if given is None else given
    if key is not None and not (key.strip() == key and key.isascii() and key):
        raise UserError("the key must be ASCII text without blanks around it, and not empty")
    if key is None and not is_loopback(host):
        raise UserError(
            f"--host {host} opens the server to other machines: give a key, --key KEY or the"
            f" variable {VARIABLE}"
        )
    return key


def listen(host: str, port: int, holder: Callable[[int], str]) -> socket.socket:
    """A socket on a free port; `holder` says who has one that is taken."""
    try:
        ((family, *_, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        line = f"port {port} of {host} cannot be opened ({error.strerror})"
        if error.errno == errno.EADDRINUSE:
            advice = f"stop that, or take another port: --port {port % 65535 + 1}"
            line = f"{line}, it is taken by {holder(port)}: {advice}"
        raise UserError(line) from error


def run(app: object, listener: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", server_header=False, timeout_graceful_shutdown=LAST_SECONDS
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn hands them on when it has ended
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])


def hosts_of(host: str) -> tuple[str, ...] | None:
    """The names by which a server on this address is called; None: any."""
    return (*LOOPBACK, host.lower()) if is_loopback(host) else None
