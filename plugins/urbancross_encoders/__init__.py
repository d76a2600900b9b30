"""First-party encoders."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_encoders() -> list[Registration]:
    """The CLIP family, through open_clip and through transformers."""
    return [
        register(
            "openclip",
            "urbancross_encoders.openclip:OpenClip",
            options="urbancross_encoders.options:OpenClipOptions",
            provides={"gradients"},
            summary="Any open_clip architecture, with weights by tag, from a local file, or none.",
        ),
        register(
            "transformers",
            "urbancross_encoders.transformers_models:Transformers",
            options="urbancross_encoders.transformers_options:TransformersOptions",
            provides={"gradients"},
            summary="CLIP, SigLIP and SigLIP 2 of transformers, from a folder or the hub.",
        ),
        register(
            "sam_fused",
            "urbancross_encoders.sam_fused:SamFused",
            options="urbancross_encoders.sam_fused_options:SamFusedOptions",
            provides={"gradients", "segments"},
            summary="An open_clip model whose images come with segments, in training and, if fused, at retrieval.",
        ),
        register(
            "precomputed",
            "urbancross_encoders.precomputed:Precomputed",
            options="urbancross_encoders.precomputed_options:PrecomputedOptions",
            provides={"gradients"},
            summary="Features from files, of any model, with a trainable head on either side.",
        ),
    ]
