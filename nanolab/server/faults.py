"""What the server refuses, in the form that clients of OpenAI's interface know."""

import itertools
from collections.abc import Mapping
from typing import Any

from nanolab.errors import UserError

TYPES = {401: "authentication_error", 429: "rate_limit_error"}  # others: by hundreds


class Refusal(UserError):
    """A request that is not answered: HTTP status, the field that is wrong, a code for programs."""

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """{"error": {"message", "type", "param", "code"}}."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status, usual)
        facts = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": facts}


def of_a_field(mistake: Mapping[str, Any]) -> Refusal:
    """The refusal for one of pydantic's errors in a body."""
    kind, words = mistake["type"], mistake["msg"]
    if kind == "json_invalid":
        reason = mistake["ctx"]["error"]
        return Refusal(f"the body is not JSON: {reason}", code="invalid_json")
    path = map(str, mistake["loc"][1:])  # the first one is "body"; kinds of a union come last
    fields = itertools.takewhile(lambda part: part.isidentifier() or part.isdigit(), path)
    param = ".".join(fields) or None
    name = param or "the body"
    if kind == "extra_forbidden":
        return Refusal(f"{name} is no field that this server knows", 400, param, "unknown_field")
    if kind == "missing":
        return Refusal(f"{name} is missing", 400, param, "missing_field")
    if kind == "value_error":  # of a check of ours: "= VALUE ...", or a sentence after a field
        words = str(mistake["ctx"]["error"])
        line = f"{name} {words}" if words.startswith("=") else words
        return Refusal(line, 400, param or words.split()[0], "invalid_value")
    return Refusal(f"{name}: {words[0].lower()}{words[1:]}", 400, param, "invalid_value")
