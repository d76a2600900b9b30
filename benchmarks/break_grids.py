"""Kill a grid of 16 cells again and again: `python benchmarks/break_grids.py --kills 50 --seed 0`.

What is killed, and what has to hold afterwards, is in tests/broken_grids.py: workers, the command, or its whole
process group at random moments; then the store is damaged. Each round kills `--each` times in a folder of its own,
and lets the grid finish. Exit status 1 if a round did not end with the tables of an undisturbed run, or computed
again what was finished.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=5, help="kills before a grid may finish")
    parser.add_argument("--damage", type=int, default=5, help="rounds of damage to ten files of the store")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, failures = random.Random(arguments.seed), 0
    done: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        from broken_grids import BrokenGrid, damaged, killed

        grid = BrokenGrid(Path(folder))
        left, number, began = arguments.kills, 0, time.perf_counter()
        while left > 0 or number < arguments.damage:
            out = f"round-{number}"
            try:
                if left > 0:
                    done.update(killed(grid, out, min(arguments.each, left), rng))
                if number < arguments.damage:
                    done["damaged stages"] += damaged(grid, f"{out}-damaged", 10, rng)
            except Exception:
                failures += 1
                traceback.print_exc()
            left, number = left - arguments.each, number + 1
            for place in Path(folder).glob("round-*"):
                shutil.rmtree(place)
            print(f"{number}: {dict(done)}, {failures} failed, {time.perf_counter() - began:.0f} s", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
