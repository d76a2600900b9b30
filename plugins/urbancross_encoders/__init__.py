"""First-party encoders."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_encoders() -> list[Registration]:
    """The CLIP family through open_clip."""
    return [
        register(
            "openclip",
            "urbancross_encoders.openclip:OpenClip",
            options="urbancross_encoders.options:OpenClipOptions",
            provides={"gradients"},
            summary="Any open_clip architecture, with weights by tag, from a local file, or none.",
        )
    ]
