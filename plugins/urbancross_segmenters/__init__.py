"""First-party segmenters."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_segmenters() -> list[Registration]:
    """Segment Anything, twice: the same masks from two implementations."""
    return [
        register(
            "sam",
            "urbancross_segmenters.sam:Sam",
            options="urbancross_segmenters.options:SamOptions",
            summary="Segment Anything through transformers, several images at once.",
        ),
        register(
            "segment_anything",
            "urbancross_segmenters.original:SegmentAnything",
            options="urbancross_segmenters.options:OriginalOptions",
            summary="Segment Anything through its authors' package, one image at a time.",
        ),
    ]
