"""A small grid that only seems to run: the plan of two runs and one skipped, to tell listeners of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Plan, Run
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import Status
from urbancross_bench.files import write_json
from urbancross_bench.records import SCHEMA, writing_record
from urbancross_bench.specs import Grid, Scenario

START = Stage("pretrain", {"number": 0}, label="tiny, a, seed 0")
ADAPT = [Stage("adapt", {"number": n}, {"start": START.key}, label=f"dann, a → b, seed {n}") for n in range(2)]
RANK = [
    Stage("rank", {"number": n}, {"model": ADAPT[n].key}, label=f"last, dann on b, seed {n}") for n in range(2)
]
STAGES = (START, *ADAPT, *RANK)


def spec(seed: int) -> dict[str, object]:
    """What a record says of a run, as far as trackers look at it."""
    return {
        "key": f"{seed + 1}" * 32,
        "scenario": {"source": ["a"], "target": "b", "kind": "cross-domain"},
        "encoder": {"label": "tiny"},
        "adaptation": {"label": "dann[weight=0.5]", "options": {"weight": 0.5}},
        "seed": seed,
        "stages": {"adapt": [ADAPT[seed].key], "pretrain": START.key},
    }


SCENARIO = Scenario(source=("a",), target="b")
RUNS = [Run(SCENARIO, "tiny", "dann", n, "", str(spec(n)["key"]), spec(n), (ADAPT[n],)) for n in range(2)]
SKIPPED = Run(SCENARIO, "tiny", "segmented", 0, "encoder 'tiny' does not provide segments")


def status(name: str = "small", *, reused: int = 0) -> Status:
    """Of the two runs the first so many are recorded already."""
    grid = Grid.model_construct(name=name)
    plan = Plan(grid, (*RUNS, SKIPPED), {stage.key: stage for stage in STAGES}, (), ())
    stages = plan.wanted([stage.key for stage in RANK[reused:]], [])
    return Status(plan, tuple(RUNS[:reused]), (SKIPPED,), tuple(RUNS[reused:]), tuple(stages))


def write_record(
    out: Path, run: Run, ended: str, error: str | None = None, scores: Mapping[str, float] = {}
) -> None:
    """A record as far as `status` and trackers look at it."""
    assert run.spec is not None
    with writing_record(out / "runs" / run.key, run.spec, ended) as folder:
        if error is not None:
            write_json(folder / "failure.json", {"stage": "adapt", "what": "", "key": "", "error": error})
        if scores:
            (folder / "scores" / "5").mkdir(parents=True)
            metrics = {name: {"value": value} for name, value in scores.items()}
            said = {
                "selector": "last",
                "protocol": "classic",
                "domain": "b",
                "metrics": metrics,
                "failed": {},
                "floors": {},
            }
            write_json(folder / "scores" / "5" / "score.json", {"schema": SCHEMA, "key": "5", **said})


class Heard(Listener):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)
