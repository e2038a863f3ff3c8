"""Who may ask at all: decided by the head of a request, before its body is read."""

import hmac
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from nanolab.server.faults import Refusal

BODY_BYTES = 8 << 20  # of a request at most
HEALTH = "/health"  # needs no key
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Gate:
    """An ASGI application in front of another one. `hosts`: the names that the server may be called
    by, so that no page in a browser reaches it under a name of its own; None: any.
    """

    def __init__(self, app: Any, key: str | None, hosts: Collection[str] | None) -> None:
        self.app, self.key, self.hosts = app, key, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope, Headers(scope=scope))
            if refusal:
                await JSONResponse(refusal.body, refusal.status)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Any, headers: Headers) -> Refusal | None:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.hosts is not None and name not in self.hosts:
            return Refusal(f"this server is not called {name!r}", 403, code="unknown_host")
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        needed = self.key is not None and scope["path"] != HEALTH
        if needed and not hmac.compare_digest(given, self.key.encode()):
            return Refusal(
                "the header Authorization must be: Bearer KEY, with the key of this server",
                401,
                code="invalid_api_key",
            )
        if scope["method"] != "POST":
            return None
        length = headers.get("content-length", "")
        if not length.isdigit():
            return Refusal("the body's length is not given (Content-Length)", 411)
        if int(length) > BODY_BYTES:
            return Refusal(f"the body has {length} bytes, more than {BODY_BYTES}", 413)
        return None
