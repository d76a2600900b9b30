"""What a user has to know of a plan before it is run, and what is no error."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from urbancross_bench.execution.domains import Domains
from urbancross_bench.specs import Grid, Scenario


def remarks(
    grid: Grid,
    domains: Domains,
    trials: Mapping[str, int],
    adapted: Collection[Scenario],
    oracles: Collection[Scenario],
) -> Iterator[str]:
    """Of its domains, its scenarios, batches larger than what they are drawn from, and the `trials` of searched
    adaptations where they are not as many.

    adapted: the scenarios in which some adaptation is trained; the budget is spent in no other. oracles: those in
    which one is trained on the target's pairs in the place of the source's.
    """
    for domain in domains.by_name.values():
        yield from domain.remarks()
    for scenario in domains.scenarios:
        if scenario.kind == "seen_target":
            yield f"scenario {scenario}: its target is one of its sources, so it is no cross-domain scenario"
    for key, recipe, trained in (
        ("pretraining", grid.pretraining, domains.scenarios),
        ("budget", grid.budget, adapted),
    ):
        images = {" + ".join(s.source): domains.training_images(s) for s in domains.scenarios if s in trained}
        for source, count in images.items():
            if recipe.trains and recipe.batch_size > count:
                asked = f"{key}.batch_size {recipe.batch_size:,}"
                yield f"{asked}: {source} has {count:,} training images, so a batch is all"
    for scenario in (s for s in domains.scenarios if s in oracles):
        count = len(domains[scenario.target].splits["train"].members)
        of_source = min(grid.budget.batch_size, domains.training_images(scenario))
        if count < of_source:
            yield (
                f"scenario {scenario}: an oracle's batch is the target's {count:,} training images, the others' "
                f"are of {of_source:,}: with fewer negatives it is too low a reference"
            )
    most = max(trials.values(), default=0)
    for name, number in trials.items():
        if number < most:
            yield f"search: adaptation {name!r} has {number} of {most} trials, as no more differ; its rows say so"
