"""Damaged data sets by the hundred: `python benchmarks/fuzz_data.py --cases 500 --seed 0`.

What is done, and what counts as right, is in tests/test_fuzz_data.py. Prints how often each thing came of it; the
exit status is 1 if a case failed. `--only SEED` runs one case again and shows it.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow")
    parser.add_argument("--only", type=int, help="run this case alone")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.cases) if arguments.only is None else [arguments.only]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"URBANCROSS_HOME": f"{folder}/home", "HF_HOME": f"{folder}/hub", "HF_HUB_OFFLINE": "1"}
        from test_fuzz_data import run_case

        outcomes: collections.Counter[str] = collections.Counter()
        layouts: collections.Counter[str] = collections.Counter()
        slowest, began = (0.0, ""), time.perf_counter()
        for seed in seeds:
            start = time.perf_counter()
            case = run_case(seed, Path(folder) / str(seed))
            slowest = max(slowest, (time.perf_counter() - start, str(case).partition("\n")[0]))
            outcomes[case.outcome] += 1
            layouts[case.layout] += 1
            if case.failure or arguments.only is not None:
                print(case)
        seconds = time.perf_counter() - began
    print(f"{len(seeds)} cases over {len(layouts)} layouts in {seconds:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"{count:6}  {outcome}")
    print(f"slowest, {slowest[0]:.1f} s: {slowest[1]}")
    return int(outcomes["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
