"""First-party captioners."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_captioners() -> list[Registration]:
    """InstructBLIP as in the paper, and sentences made of tags alone."""
    return [
        register(
            "from_tags",
            "urbancross_captioners.from_tags:FromTags",
            options="urbancross_captioners.options:FromTagsOptions",
            summary="Sentences made of an image's tags by rules; needs neither weights nor pixels.",
        ),
        register(
            "instructblip",
            "urbancross_captioners.instructblip:InstructBlip",
            options="urbancross_captioners.options:InstructBlipOptions",
            summary="InstructBLIP through transformers, prompted with an image's tags as in the UrbanCross paper.",
        ),
    ]
