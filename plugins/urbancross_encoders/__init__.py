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
    ]
