"""`python scripts/bench.py server --model hf:FOLDER`: the server with one client and with several,
one JSON line a result.

Server and clients run in this process, over a real socket. `throughput`: tokens a second of one
client, who asks one question after the other, and of all clients at once, in turn: medians of the
rounds, by the clock and by the processor time of this process (where others use the machine too).
`answers`: how many of the same requests got the same text and log p alone and in company. `gaps`:
between two tokens of plain answers, in ticks of the batch and in seconds, without and beside a
power request.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch

SUBJECTS = ("harbour", "forest", "market", "mountain", "library", "garden", "station", "desert")
Facts = dict[str, Any]


def emit(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `server`."""
    add = parser.add_argument
    add("--model", required=True, metavar="SOURCE", help="a study, or a model from outside")
    add("--clients", type=int, default=8)
    add("--tokens", type=int, default=64, help="of an answer at most; default: 64")
    add("--rounds", type=int, default=3, help="of one client and all in turn; default: 3")
    add("--threads", type=int, default=1, help="of torch; default: 1")
    add("--top-k", type=int, help="default: all tokens, as OpenAI's interface has it")


class Bench:
    """A running server, and requests to it."""

    def __init__(self, address: str, given: argparse.Namespace, served: Any) -> None:
        import openai

        self.given, self.name = given, served.name
        self.client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=600)
        self.engine = served.engine

    def ask(self, number: int, **more: Any) -> Any:
        """The answer to request `number`, whose seed it is."""
        what = SUBJECTS[number % len(SUBJECTS)]
        extra = {"top_k": self.given.top_k} | more.pop("extra_body", {})
        plain = {} if "power" in extra else {"temperature": 0.7}
        return self.client.chat.completions.create(
            model=self.name,
            messages=[{"role": "user", "content": f"Tell a long story about a {what}."}],
            seed=number,
            max_tokens=self.given.tokens,
            extra_body=extra,
            **plain,
            **more,
        )

    def timed(self, numbers: Sequence[int], clients: int) -> tuple[list[Any], float, float]:
        """The answers to some requests by so many clients at once, tokens a second of the clock,
        and a second of processor time, of server and clients.
        """
        started, worked = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(self.ask, numbers))
        tokens = sum(answer.usage.completion_tokens for answer in answers)
        worked = time.process_time() - worked
        return answers, tokens / (time.perf_counter() - started), tokens / worked

    def throughput(self) -> None:
        """One client and all of them, in turn."""
        speeds: list[list[float]] = []  # one, all; by the clock, then by processor time
        equal, differ = 0, 0.0
        numbers = range(self.given.clients)
        for _ in range(self.given.rounds):
            alone, one, one_cpu = self.timed(numbers, 1)
            together, many, many_cpu = self.timed(numbers, self.given.clients)
            speeds.append([one, many, one_cpu, many_cpu])
            pairs = list(zip(alone, together))
            equal += sum(shown(a) == shown(b) for a, b in pairs)
            differ = max(differ, *(abs(log_p(a) - log_p(b)) for a, b in pairs))
        one, many, one_cpu, many_cpu = (statistics.median(column) for column in zip(*speeds))
        emit(
            result="throughput",
            clients=self.given.clients,
            one=round(one, 2),
            all=round(many, 2),
            ratio=round(statistics.median(row[1] / row[0] for row in speeds), 2),
            one_by_processor_time=round(one_cpu, 2),
            all_by_processor_time=round(many_cpu, 2),
            ratio_by_processor_time=round(statistics.median(r[3] / r[2] for r in speeds), 2),
        )
        emit(
            result="answers",
            equal=equal,
            of=self.given.rounds * len(numbers),
            largest_difference_of_log_p=differ,
        )

    def gaps(self, beside: Callable[[], Any] | None) -> Facts:
        """Between two tokens of half of the clients' plain answers, while `beside` runs."""
        seen: dict[int, list[tuple[int, float]]] = {}
        submit = self.engine.submit

        def recorded(jobs: Sequence[Any]) -> None:
            for job in jobs:
                if not job.is_chain:
                    watch, moments = job.program.watch, seen.setdefault(id(job), [])

                    def told(tokens: Any, suffix: Any, watch=watch, moments=moments) -> bool:
                        moments.append((self.engine.ticks, time.perf_counter()))
                        return watch(tokens, suffix)

                    job.program = job.program._replace(watch=told)
            submit(jobs)

        self.engine.submit = recorded
        with ThreadPoolExecutor(self.given.clients) as pool:
            plain = [
                pool.submit(lambda i: list(self.ask(i, stream=True)), i)
                for i in range(self.given.clients // 2)
            ]
            other = pool.submit(beside) if beside else None
            for answer in plain:
                answer.result()
            facts = {"power": other.result().choices[0].power} if other else {}
        self.engine.submit = submit
        # the first token needs no forward of its own: the second comes in the same tick
        pairs = [pair for moments in seen.values() for pair in pairwise(moments[1:])]
        seconds = sorted(after[1] - before[1] for before, after in pairs)
        return facts | {
            "gaps": len(pairs),
            "largest_in_ticks": max(after[0] - before[0] for before, after in pairs),
            "median_seconds": round(statistics.median(seconds), 4),
            "largest_seconds": round(seconds[-1], 4),
        }


def shown(answer: Any) -> tuple[str, int]:
    """What must be equal alone and in company."""
    return answer.choices[0].message.content, answer.usage.completion_tokens


def log_p(answer: Any) -> float:
    """Of the answer, nats."""
    return answer.choices[0].log_p


def main(given: argparse.Namespace) -> int:
    """Starts the server, measures, and stops it."""
    import uvicorn

    from nanolab.chat.trained import load_for_chat
    from nanolab.server.answers import Served
    from nanolab.server.app import make_app
    from nanolab.settings.model_source import is_outside

    torch.set_num_threads(given.threads)
    outside = is_outside(given.model)
    subject, name = load_for_chat(*(None, given.model) if outside else (given.model, None))
    served = Served(subject, name, 32, 128)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(served), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        bench = Bench(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", given, served)
        load = [round(x, 1) for x in os.getloadavg()]
        cpu = platform.processor() or platform.machine()
        emit(result="machine", cpu=cpu, cores=os.cpu_count(), load=load, threads=given.threads)
        bench.ask(0)  # warm
        bench.throughput()
        power = {"alpha": 4.0, "steps": 10, "temperature": 0.25, "top_k": 50}
        emit(result="gaps", beside="nothing", **bench.gaps(None))
        chain = lambda: bench.ask(100, extra_body={"power": power, "top_k": None})  # noqa: E731
        emit(result="gaps", beside="a power request", **bench.gaps(chain))
        emit(result="load", after=[round(x, 1) for x in os.getloadavg()])
    finally:
        server.should_exit = True
        thread.join()
    return 0
