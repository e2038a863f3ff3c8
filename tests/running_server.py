"""A server on a free port in a thread of the tests, with a model of random weights."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass

import openai
import uvicorn
from small_models import TOKENIZER, tiny

from nanolab.evals.subject import Subject
from nanolab.server.answers import Served
from nanolab.server.app import make_app

NAME = "tiny/sft"


@dataclass
class Running:
    """A server, and how it is reached."""

    served: Served
    address: str
    key: str | None = None

    @property
    def client(self):
        key = self.key or "none"
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0)

    def rows(self):
        """Rows that the engine still holds, once it is at rest."""
        engine = self.served.engine
        for _ in range(500):
            if not (engine.running or engine.waiting or engine.dropped):
                return engine.scheduler.model.tokens
            time.sleep(0.01)
        raise AssertionError("the engine does not come to rest")


def subject(source="sft"):
    return Subject(tiny(), TOKENIZER, {"name": "tiny"}, source)


@contextlib.contextmanager
def running(model=None, rows=8, queue=32, key=None):
    """A server of a subject (None: one of random weights), until the block ends."""
    served = Served(model or subject(), NAME, rows, queue)
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app(served, key, ("127.0.0.1",))
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield Running(served, f"http://127.0.0.1:{listener.getsockname()[1]}", key)
    finally:
        server.should_exit = True
        thread.join()
