"""Random cases held against brute force: `python benchmarks/check_ranking.py --cases 2000`.

Every case is ranked by each screening tier alone, in the blocks of the package and in tiny ones, and all counts,
top lists, ranks and the six recalls are compared with counting over exact numbers (`tests/ranking_oracle.py`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ranking_oracle import any_seeded_case, differences

from urbancross_bench.evaluation import counting, evaluate_retrieval
from urbancross_bench.evaluation.screening import BFLOAT16, FLOAT32, FLOAT64

TIERS = {
    "chosen": None,
    "bfloat16": (BFLOAT16, FLOAT32, FLOAT64),
    "float32": (FLOAT32, FLOAT64),
    "float64": (FLOAT64,),
}
BLOCKS = ((counting._IMAGES, counting._TEXTS), (3, 7))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--images", type=int, default=12, help="at most so many images")
    parser.add_argument("--texts", type=int, default=40, help="at most so many texts")
    options = parser.parse_args()
    agree = 0
    for seed in range(options.first, options.first + options.cases):
        case = any_seeded_case(seed, options.images, options.texts)
        expected = case.expected()
        wrong: list[str] = []
        for name, tier in TIERS.items():
            if name == "bfloat16" and (case.image_bias or case.text_bias):
                continue  # biases are taken off rounded products: never chosen for them
            for images, texts in BLOCKS:
                with (
                    patch.multiple(counting, _IMAGES=images, _TEXTS=texts),
                    patch.object(
                        counting, "screens", counting.screens if tier is None else lambda *_, tier=tier: tier
                    ),
                ):
                    ranking = evaluate_retrieval(**case.arguments())
                wrong += [f"{name} {images}x{texts} {found}" for found in differences(case, ranking, expected)]
        agree += not wrong
        for line in wrong[:3]:
            print(f"case {seed} ({case.protocol}, {case.ties}): {line}", flush=True)
    print(f"{agree} of {options.cases} cases agree, each in {len(TIERS)} tiers and {len(BLOCKS)} block sizes")
    sys.exit(agree != options.cases)


if __name__ == "__main__":
    main()
