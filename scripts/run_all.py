"""Runs a study: `python scripts/run_all.py experiments/smoke.yaml [--set STAGE.KEY=VALUE] [--only
STEP,..] [--from STEP] [--fresh]`.

Steps run in order, each through its notebook; a second run goes on where the first one stopped and
reuses what is finished.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanolab.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
