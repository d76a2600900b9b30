"""First-party selectors."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_selectors() -> list[Registration]:
    """By no data, by source validation, by the target without its pairs, and by the target's pairs."""
    return [
        register(
            "last",
            "urbancross_selectors.validation:Last",
            setting="source_only",
            summary="The checkpoint after the last step.",
        ),
        register(
            "source_val",
            "urbancross_selectors.validation:SourceValidation",
            setting="source_only",
            needs={"source_val"},
            summary="The best mR on the validation pairs of the source domains.",
        ),
        register(
            "information_maximisation",
            "urbancross_selectors.unlabelled:InformationMaximisation",
            setting="unsupervised",
            needs={"target_unpaired"},
            summary="Sure and varied answers on the target's unpaired validation data (mutual information).",
        ),
        register(
            "neighbourhood_density",
            "urbancross_selectors.unlabelled:NeighbourhoodDensity",
            options="urbancross_selectors.options:NeighbourhoodDensityOptions",
            setting="unsupervised",
            needs={"target_unpaired"},
            summary="Target images with many close texts and texts with many close images (after SND).",
        ),
        register(
            "cycle_consistency",
            "urbancross_selectors.unlabelled:CycleConsistency",
            setting="unsupervised",
            needs={"target_unpaired"},
            summary="The share of target items that are the nearest of their nearest.",
        ),
        register(
            "importance_weighted",
            "urbancross_selectors.importance:ImportanceWeighted",
            setting="unsupervised",
            needs={"source_val", "target_unpaired"},
            summary="Source validation, weighted by how target-like a query is (DEV).",
        ),
        register(
            "target_oracle",
            "urbancross_selectors.validation:TargetOracle",
            setting="oracle",
            needs={"target_val"},
            summary="The best mR on the target's validation pairs: oracle selection, never ranked.",
        ),
    ]
