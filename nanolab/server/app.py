"""The addresses of the server: /v1/models, /v1/chat/completions, /v1/completions, /health."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from nanolab.errors import UserError
from nanolab.server import prompts
from nanolab.server.answers import Answers, Served
from nanolab.server.faults import Refusal, of_a_field
from nanolab.server.gate import Gate
from nanolab.server.requests import ChatRequest, CompletionRequest
from nanolab.server.responses import Chat, Completion, Writer


def make_app(
    served: Served, key: str | None = None, hosts: Collection[str] | None = None
) -> FastAPI:
    """The application that answers for `served`, which it closes at its end; `hosts`: as `Gate`
    says.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        served.close()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, key=key, hosts=hosts)
    _add_faults(app)
    _add_models(app, served)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        _check_model(served, asked.model)
        messages = [message.plain() for message in asked.messages]
        prompt = await served.write(prompts.chat_prompt, messages)
        limit = prompts.checked_limit(served.subject, prompt, asked.limit, "messages")
        answers = Answers(served, asked, [prompt], [limit], paragraph=served.subject.plain)
        return await _respond(Writer(answers, Chat()), request)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        _check_model(served, asked.model)
        found = await served.write(prompts.completion_prompts, asked.prompts)
        limits = [
            prompts.checked_limit(served.subject, prompt, asked.limit, "prompt") for prompt in found
        ]
        answers = Answers(served, asked, found, limits)
        return await _respond(Writer(answers, Completion()), request)

    return app


def _add_models(app: FastAPI, served: Served) -> None:
    model = {"id": served.name, "object": "model", "created": 0, "owned_by": "nanolab"}
    model["max_model_len"] = served.subject.context

    @app.get("/health")
    async def health() -> Response:
        engine = served.engine
        facts = {"running": len(engine.running), "waiting": len(engine.waiting)}
        state = "stopped" if engine.stopped else "ok"
        return JSONResponse({"status": state, **facts}, 503 if engine.stopped else 200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        _check_model(served, name)
        return model


def _check_model(served: Served, name: str) -> None:
    if name != served.name:
        raise Refusal(
            f"there is no model {name!r} here; this server has {served.name!r}",
            404,
            "model",
            "model_not_found",
        )


async def _respond(writer: Writer, request: Request) -> Response:
    """The answers as they come, or all at once; a client who leaves ends them."""
    if writer.answers.asked.stream:
        lines = writer.stream()
        await anext(lines)  # a full queue is refused here, with its own status
        return StreamingResponse(lines, media_type="text/event-stream")
    body = asyncio.create_task(writer.body())
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({body, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(await body) if body.done() else Response(status_code=499)
    finally:
        gone.cancel()
        body.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_faults(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    def answer(refusal: Refusal) -> Response:
        return JSONResponse(refusal.body, refusal.status)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return answer(refusal)

    @app.exception_handler(UserError)
    async def mistaken(_: Request, error: UserError) -> Response:
        return answer(Refusal(str(error), code="invalid_value"))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return answer(of_a_field(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        return answer(Refusal(f"{where}: {error.detail}", error.status_code))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        words = f"the server made a mistake ({type(error).__name__}); its log says more"
        return answer(Refusal(words, 500, code="internal_error"))
