"""Files of the hub over HTTP: listed with their hashes, downloaded so that a cut is resumed and a wrong byte refused, or read in ranges.

Not through huggingface_hub: its downloads start over in a new process and check the size alone. Two addresses are used,
/api/datasets/NAME/tree/REVISION/FOLDER and /datasets/NAME/resolve/REVISION/FILE, at HF_ENDPOINT or https://huggingface.co.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

from nanolab.schema import UserError

PROBE_SECONDS = 3.0
LISTING_SECONDS = 8.0
READ_SECONDS = 30.0  # a connection that is silent for so long is opened again
RETRIES = 4  # in a row without a byte
PAUSE = 1.0  # seconds before the first retry; doubled each time
CHUNK = 1 << 20
ADVICE = "use data.source: local (a folder, such as `python -m nanolab data fetch` fills) or embedded (generated), neither needs a network"
NETWORK_ERRORS = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class HubFile:
    """A file and its size in bytes; its hash is SHA-256, else git's SHA-1 of the blob, else not published."""

    url: str
    path: str
    size: int
    sha256: str | None = None
    blob: str | None = None


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT where it is set."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def require_hub(advice: str = ADVICE) -> None:
    """Raises UserError within seconds when the hub cannot be reached, where its client would retry for half a minute.

    Not probed: behind a proxy (a socket says nothing there; the first request has its own limit) and offline by HF_HUB_OFFLINE.
    """
    if offline() or any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        return
    address = urlparse(endpoint())
    host, port = (
        address.hostname or "huggingface.co",
        address.port or (80 if address.scheme == "http" else 443),
    )
    if not _within(
        PROBE_SECONDS, lambda: socket.create_connection((host, port), PROBE_SECONDS).close()
    ):
        raise UserError(f"the hub ({host}) cannot be reached; {advice}")


def _within(seconds: float, connect: Callable[[], None]) -> bool:
    """Whether `connect` succeeds in time; its own thread, since a name lookup knows no time limit."""
    reached = []

    def attempt() -> None:
        with contextlib.suppress(OSError):  # said by `reached` staying empty
            connect()
            reached.append(True)

    (thread := threading.Thread(target=attempt, daemon=True)).start()
    thread.join(seconds + 1)
    return bool(reached)


def list_files(repository: str, revision: str, folder: str) -> list[HubFile]:
    """The files of a folder of a data set at a revision, by name; UserError of one line when they cannot be had."""
    if offline():
        raise UserError(f"HF_HUB_OFFLINE is set and {repository} was not fetched before; {ADVICE}")
    require_hub()
    url = f"{endpoint()}/api/datasets/{repository}/tree/{revision}/{quote(folder)}"
    entries: list[dict[str, Any]] = []
    try:
        while url:
            with urllib.request.urlopen(url, timeout=LISTING_SECONDS) as response:
                entries += json.load(response)
                url = _next_page(response.headers.get("Link", ""))
    except (*NETWORK_ERRORS, ValueError) as error:
        raise UserError(
            f"hub {repository} could not be read ({reason_of(error)}); {ADVICE}"
        ) from error
    files = [
        HubFile(
            f"{endpoint()}/datasets/{repository}/resolve/{revision}/{quote(entry['path'])}",
            entry["path"],
            entry["size"],
            entry.get("lfs", {}).get("oid"),
            entry["oid"],
        )
        for entry in entries
        if entry["type"] == "file"
    ]
    return sorted(files, key=lambda file: file.path)


def _next_page(link: str) -> str:
    return link.partition("<")[2].partition(">")[0] if 'rel="next"' in link else ""


def download(file: HubFile, target: Path, progress: bool = True) -> None:
    """Bring `file` to `target`: into a part that a later attempt, of this process or another, goes on with; checked; then renamed.

    Raises UserError when the connection fails again and again (the part stays), or when size or hash are wrong (the part goes).
    """
    from tqdm import tqdm

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{(file.sha256 or file.blob or 'file')[:12]}.part")
    have, failures = part.stat().st_size if part.exists() else 0, 0
    with tqdm(
        total=file.size,
        initial=have,
        unit="B",
        unit_scale=True,
        desc=target.name,
        disable=None if progress else True,
    ) as bar:
        while have < file.size:
            try:
                _append(file.url, part, have, bar.update)
                reason = "the connection was cut"
            except NETWORK_ERRORS as error:
                reason = reason_of(error)
            before, have = have, part.stat().st_size if part.exists() else 0
            failures = 0 if have > before else failures + 1
            if not _try_again(failures):
                raise UserError(
                    f"{file.url} could not be read ({reason}); {have:,} of {file.size:,} bytes are here: run the command again "
                    "to go on from there"
                )
    _verify(file, part)
    with open(part, "rb") as finished:
        os.fsync(finished.fileno())
    os.replace(part, target)


def _try_again(failures: int) -> bool:
    """Whether so many failures in a row leave another try; waits before it."""
    if 0 < failures <= RETRIES:
        time.sleep(PAUSE * 2 ** (failures - 1))
    return failures <= RETRIES


def _append(url: str, part: Path, have: int, update: Callable[[int], Any]) -> None:
    """Go on with `part` from byte `have`; a server that ignores the range starts it over."""
    with urllib.request.urlopen(_range_request(url, have, None), timeout=READ_SECONDS) as response:
        resumed = response.status == 206
        if not resumed:
            update(-have)
        with open(part, "ab" if resumed else "wb") as output:
            while chunk := response.read(CHUNK):
                output.write(chunk)
                update(len(chunk))


def _verify(file: HubFile, part: Path) -> None:
    digest = (
        hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    )  # how git names a file's content
    with open(part, "rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    expected, size = file.sha256 or file.blob or digest.hexdigest(), part.stat().st_size
    if size != file.size or digest.hexdigest() != expected:
        part.unlink()
        raise UserError(
            f"{file.url} is damaged: {size:,} bytes with hash {digest.hexdigest()[:16]}, expected {file.size:,} with "
            f"{expected[:16]}; it was thrown away, run the command again"
        )


class RemoteFile(io.RawIOBase):
    """A file of the hub that is read in ranges, for a parquet reader: only the columns and row groups asked for are sent."""

    def __init__(self, file: HubFile) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = (
            offset
            + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        )
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, as far as the file goes; OSError when the hub fails again and again."""
        wanted = max(0, min(len(buffer), self._file.size - self._place))
        got, failures, reason = 0, 0, "empty answers"
        while got < wanted:
            try:
                request = _range_request(
                    self._file.url, self._place + got, self._place + wanted - 1
                )
                with urllib.request.urlopen(request, timeout=READ_SECONDS) as response:
                    if response.status != 206:
                        raise OSError(f"{self._file.url} is not served in ranges")
                    chunk = response.read()
            except http.client.IncompleteRead as error:
                chunk = error.partial
            except NETWORK_ERRORS as error:
                chunk, reason = b"", reason_of(error)
            failures = 0 if chunk else failures + 1
            if not _try_again(failures):
                raise OSError(f"{self._file.url} could not be read ({reason})")
            chunk = chunk[: wanted - got]
            buffer[got : got + len(chunk)] = chunk
            got += len(chunk)
        self._place += got
        return got


def _range_request(url: str, first: int, last: int | None) -> urllib.request.Request:
    headers = (
        {}
        if first == 0 and last is None
        else {"Range": f"bytes={first}-{'' if last is None else last}"}
    )
    return urllib.request.Request(url, headers=headers)


def reason_of(error: BaseException) -> str:
    """What went wrong in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
