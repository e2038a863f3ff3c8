"""Whether the hub can be reached, asked before its client, which would retry for half a minute."""

import contextlib
import os
import socket
import threading
from urllib.parse import urlparse

from nanolab.errors import UserError

PROBE_SECONDS = 3.0
ADVICE = (
    "use data.source: local (a folder, such as `python -m nanolab data fetch` fills) or embedded"
    " (generated), neither needs a network"
)


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT where it is set."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def require_hub(advice: str = ADVICE) -> None:
    """Raises UserError within seconds when the hub cannot be reached.

    Not probed: behind a proxy (a socket says nothing there) and offline by HF_HUB_OFFLINE.
    """
    if offline() or any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        return
    address = urlparse(endpoint())
    host = address.hostname or "huggingface.co"
    port = address.port or (80 if address.scheme == "http" else 443)
    reached = threading.Event()

    def attempt() -> None:
        with contextlib.suppress(OSError):  # said by `reached` staying unset
            socket.create_connection((host, port), PROBE_SECONDS).close()
            reached.set()

    # in a thread: a name lookup knows no time limit
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    if not reached.is_set():
        raise UserError(f"the hub ({host}) cannot be reached; {advice}")


def reason_of(error: BaseException) -> str:
    """What went wrong in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
