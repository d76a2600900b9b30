"""First-party adaptations."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_adaptations() -> list[Registration]:
    """The two references every comparison needs, and UrbanCross."""
    return [
        register(
            "source_only",
            "urbancross_adaptations.supervised:SourceOnly",
            setting="source_only",
            needs={"gradients"},
            summary="More training on the source pairs: what no adaptation gives.",
        ),
        register(
            "oracle",
            "urbancross_adaptations.supervised:Oracle",
            setting="oracle",
            needs={"gradients"},
            summary="Training on the target's own training pairs: a reference, never ranked.",
        ),
        register(
            "urbancross",
            "urbancross_adaptations.urbancross:UrbanCross",
            options="urbancross_adaptations.options:UrbanCrossOptions",
            setting="unsupervised",
            needs={"gradients", "reference"},
            summary="Curriculum source sampler, weighted adversarial loss and weighted triplet (paper variant).",
        ),
    ]
