"""What a column of leaderboards promises."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from urbancross_bench.errors import UrbanCrossError
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.interfaces.renderer import no_cell
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_features

_GRID = {
    "name": "tiny",
    "domains": {"a": "synthetic/nordia[images=40,size=32]", "b": "synthetic/meridia[images=40,size=32]"},
    "scenarios": [{"source": "a", "target": "b"}],
    "encoders": ["openclip[architecture=urbancross-tiny]"],
    "pretraining": {"steps": 1, "batch_size": 8},
    "adaptations": ["source_only", "dann"],
    "budget": {"steps": 1, "batch_size": 8},
    "seeds": [0, 1, 2],
}
Given = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]


class ColumnConformance(PureConformance):
    """A column is asked of the runs of a small grid, as their records have them."""

    kind = "column"

    def work(self) -> Any:
        """A cell of every row."""
        column = self.build()
        return [column.cell(run, scores) for run, scores in self._rows()]

    def prepare(self) -> None:
        """Import the column, and make records."""
        super().prepare()
        self._rows()

    def _rows(self) -> list[Given]:
        """Of each row `run.json` of its first seed, and the `score.json` of all; each time a copy."""
        rows: list[Given] = self.once("rows", self._recorded)
        return copy.deepcopy(rows)

    def _recorded(self) -> list[Given]:
        from urbancross_bench.execution.plan import make_plan
        from urbancross_bench.execution.scoring import score_ranking
        from urbancross_bench.registry import Registry
        from urbancross_bench.specs import Grid

        registry = Registry.discover()
        metrics = [registry.resolve("metric", "recall")]
        rows: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        for run in make_plan(Grid.model_validate(_GRID), registry).runs:
            assert run.spec is not None, "nothing in this grid is skipped"
            one = tiny_features(12, seed=run.seed)
            ranking = evaluate_retrieval(one.images, one.texts, one.image_of_text)
            score, _ = score_ranking(ranking, metrics, draws=0)
            score |= {"selector": "last", "domain": run.spec["scenario"]["target"], "step": 1, "drift": None}
            spec = {**run.spec, "key": run.key, "status": "ok"}
            rows.setdefault(run.adaptation, (spec, []))[1].append(score)
        return [*rows.values()]

    def test_it_gives_cells(self) -> None:
        """What it gives is a text, a finite number, an estimate, or None."""
        for cell in self.worked().result:
            if why := no_cell(cell):
                broken(f"it gives {why}")

    def test_it_changes_nothing(self) -> None:
        """It leaves the records that it is shown as they are."""
        self.worked()
        shown = self._rows()
        for run, scores in shown:
            self.build().cell(run, scores)
        if found := difference(self._rows(), shown):
            broken(f"it changes {found} of the records")

    def test_a_batch_of_one(self) -> None:
        """A row of one seed, and a score whose metrics are others, have a cell too, or None."""
        self.worked()
        for run, scores in self._rows():
            for few in (scores[:1], [{**scores[0], "metrics": {}}]):
                seen = self.watched(lambda run=run, few=few: self.build().cell(run, few))  # type: ignore[misc]
                if seen.error is not None and not isinstance(seen.error, UrbanCrossError):
                    broken(f"{type(seen.error).__name__}: {seen.error}, where a seed or a metric is missing")
