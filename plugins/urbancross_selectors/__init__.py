"""First-party selectors."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_selectors() -> list[Registration]:
    """The last checkpoint, the best on source validation, and the best on target validation."""
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
            "target_val",
            "urbancross_selectors.validation:TargetValidation",
            setting="oracle",
            needs={"target_val"},
            summary="The best mR on the target's validation pairs: oracle selection, never ranked.",
        ),
    ]
