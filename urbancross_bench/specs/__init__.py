"""The grid as a user writes it: a YAML file, checked key by key, with errors that name the line."""

from urbancross_bench.specs.ablation import Ablation, AblationCell, AblationView, identity_of, row_key
from urbancross_bench.specs.grid import Grid, Range, Scenario, Search, as_json
from urbancross_bench.specs.reading import find_grid, load_grid
from urbancross_bench.specs.training import Augmentation, Budget, Pretraining, Spec, Training

__all__ = [
    "Ablation",
    "AblationCell",
    "AblationView",
    "Augmentation",
    "Budget",
    "Grid",
    "Pretraining",
    "Range",
    "Scenario",
    "Search",
    "Spec",
    "Training",
    "as_json",
    "find_grid",
    "identity_of",
    "load_grid",
    "row_key",
]
