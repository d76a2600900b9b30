"""First-party datasets."""

from urbancross_bench.interfaces import Registration, hookimpl, register
from urbancross_datasets.synthetic.countries import COUNTRIES


@hookimpl
def register_datasets() -> list[Registration]:
    """The embedded synthetic countries, and readers of the field's caption files."""
    return [
        register(
            "synthetic",
            "urbancross_datasets.synthetic.dataset:Synthetic",
            options="urbancross_datasets.synthetic.options:SyntheticOptions",
            members=COUNTRIES,
            summary="Drawn satellite tiles of three invented countries; needs no download.",
        ),
        register(
            "karpathy",
            "urbancross_datasets.karpathy:Karpathy",
            options="urbancross_datasets.karpathy:KarpathyOptions",
            summary="A Karpathy-style caption json with its image folder (RSICD, UCM-Captions, …).",
        ),
    ]
