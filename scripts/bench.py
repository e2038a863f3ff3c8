"""Benchmarks: every line printed is one JSON object. Never a test: nothing here asserts a time.

    python scripts/bench.py COMMAND ...

| command | measures |
| --- | --- |
| smoke [--seeds 3] [--set data.seed=1] | the default study: wall time, memory, science targets |
| data [--root FOLDER] | packing from cached tokens, tokens thrown away, the tokenizer |
| power [--against CHECKOUT ...] [--quick] | sampling: positions, seconds, tokens a second, memory |
| core --against CHECKOUT [--only choices] | CORE beside nanochat's core_eval: choices, speed |
| gpu [--out FILE] | a CUDA device: numbers against the CPU's, speed, memory |
| hf --model hf:FOLDER | decoding of a published model beside transformers' generate |
| vllm --model hf:FOLDER | power sampling of a published model: vLLM beside our engine |
| server --model hf:FOLDER | the server with one client and with eight |
| public --model hf:FOLDER --against CHECKOUT | power sampling beside the first paper's code |
| lm_eval --model hf:FOLDER --data FOLDER | verdicts beside EleutherAI's harness |

`smoke` writes experiments/results/smoke/: targets.json with the commit that it ran, and the first
seed's report (text, page, results.csv) with its figures. `core` writes experiments/results/core/:
choices.json, every_task.json and speed.json. `gpu` writes FILE; it needs torch, numpy, safetensors,
tiktoken, pyyaml and pyarrow only. Each command is a file bench_NAME.py, imported when it is called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

COMMANDS = {  # name: what `--help` says of it
    "smoke": "the default study, once a seed",
    "power": "sampling, beside the peers whose checkouts are given",
    "vllm": "power sampling of a published model: vLLM beside our transformers engine",
    "core": "CORE beside nanochat's core_eval, on the data of the folder NANOLAB_DATA",
    "server": "the server with one client and with eight: tokens a second, answers, gaps",
    "data": (
        "packing from cached tokens, tokens thrown away, the tokenizer beside rustbpe and tiktoken"
    ),
    "public": "power sampling of a published model beside the first paper's code",
    "lm_eval": "verdicts on a published model beside EleutherAI's harness",
    "hf": "the transformers engine beside transformers' own generate: speed, memory, scoring",
    "gpu": (
        "a CUDA device: its numbers against the CPU's, speed and memory of training and decoding"
    ),
}


def main(arguments: list[str]) -> int:
    """Runs a command and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text)
        if arguments[:1] == [name]:
            importlib.import_module(f"bench_{name}").add_arguments(added)
    given = parser.parse_args(arguments)
    return importlib.import_module(f"bench_{given.command}").main(given)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
