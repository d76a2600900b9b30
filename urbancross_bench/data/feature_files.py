"""Files of stored features: npz, safetensors, parquet, and the bundle of prompts that zero-shot papers release.

None of them can run code: npz is opened without pickle, the others have none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.features import FeatureTable
from urbancross_bench.data.paths import relative_start
from urbancross_bench.errors import DataError

_T = TypeVar("_T")
_BUNDLE = ("image", "text", "labels", "templates", "classnames")


@dataclass(frozen=True, eq=False)
class PromptBundle:
    """Features of N images of C classes and of T prompts for each class.

    images: N rows, called `airport_1`, `airport_2`, … in the file's order. texts: T·C rows, the prompts of the
    first template for all classes before those of the second. labels (N,) are classes of the images.
    """

    images: FeatureTable
    texts: FeatureTable
    labels: NDArray[np.int64]
    templates: Sequence[str]
    classnames: Sequence[str]

    def prompt(self, template: int, label: int) -> str:
        """The caption that a template makes of a class."""
        return prompt(self.templates[template], self.classnames[label])


def prompt(template: str, classname: str) -> str:
    """The class in the place of `{}`; else behind the template's words, which then may be joined by `_`."""
    if "{}" in template:
        return template.replace("{}", classname)
    return f"{template.replace('_', ' ')} {classname}"


def read_features(file: Path, part: Literal["images", "texts"]) -> FeatureTable:
    """The features in a file, checked; of a bundle those of its images or of its prompts.

    * `.npz`: `names` (N,) strings and `features` (N, D); or a bundle, see `read_bundle`
    * `.safetensors`: tensor `features` (N, D), and in the header's metadata `names`, a JSON list
    * `.parquet`: columns `name` and `features`, a list of D floats in each row

    Raises DataError naming the file and what is wrong with it.
    """
    readers: dict[str, Callable[[Path], FeatureTable]] = {
        ".npz": lambda file: _npz(file, part),
        ".safetensors": _safetensors,
        ".parquet": _parquet,
    }
    if file.suffix == ".npy":
        raise DataError(
            f"features {file}: an array alone does not name its rows; write np.savez(…, names=…, features=…), "
            f"with the {'name of the image' if part == 'images' else 'caption'} of each row (docs/precomputed.md)"
        )
    if file.suffix not in readers:
        raise DataError(f"features {file}: the name ends in none of {', '.join(readers)}")
    return _guarded(readers[file.suffix], file).check()


def read_bundle(file: Path) -> PromptBundle:
    """An npz of `image` (N, D), `text` (T, C, D), `labels` (N,), `templates` (T,) and `classnames` (C,).

    Raises DataError naming the file and what is wrong with it.
    """
    bundle = _guarded(lambda file: _bundle(file, _arrays(file, _BUNDLE)), file)
    bundle.images.check()
    bundle.texts.check()
    return bundle


def _guarded(read: Callable[[Path], _T], file: Path) -> _T:
    if not file.is_file():
        raise DataError(f"features {file}: there is no such file ({relative_start()})")
    try:
        return read(file)
    except DataError:
        raise
    except Exception as error:  # a damaged file makes its library trip over whatever it holds
        raise DataError(f"features {file} cannot be read: {str(error) or repr(error)}") from error


def _npz(file: Path, part: Literal["images", "texts"]) -> FeatureTable:
    with np.load(file, allow_pickle=False) as opened:
        is_bundle = {*_BUNDLE} <= {*opened.files}
    if is_bundle:
        bundle = _bundle(file, _arrays(file, _BUNDLE))
        return bundle.images if part == "images" else bundle.texts
    arrays = _arrays(file, ("names", "features"))
    return FeatureTable(file, _texts(file, "names", arrays["names"]), arrays["features"])


def _arrays(file: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as opened:
        absent = [name for name in wanted if name not in opened.files]
        if absent:
            raise DataError(
                f"features {file} hold {', '.join(opened.files) or 'nothing'}, but no {', '.join(absent)}; an npz "
                f"needs names and features, or {', '.join(_BUNDLE)}"
            )
        return {name: opened[name] for name in wanted}


def _bundle(file: Path, arrays: dict[str, NDArray[Any]]) -> PromptBundle:
    image, text, labels = (arrays[name] for name in ("image", "text", "labels"))
    templates, classnames = (_texts(file, name, arrays[name]) for name in ("templates", "classnames"))
    if text.ndim != 3 or text.shape[:2] != (len(templates), len(classnames)):
        raise DataError(
            f"features {file}: text has shape {text.shape}, with {len(templates)} templates and "
            f"{len(classnames)} classnames; wanted is (T, C, D)"
        )
    if labels.shape != image.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"features {file}: labels are no integers, one for each of the images {image.shape}")
    outside = np.flatnonzero((labels < 0) | (labels >= len(classnames)))
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"features {file}: label {labels[row]} of image {row} is none of {len(classnames)} classes"
        )
    names, counts = [], [0] * len(classnames)
    for label in labels.tolist():
        counts[label] += 1
        names.append(f"{classnames[label].replace(' ', '_')}_{counts[label]}")
    prompts = [prompt(template, classname) for template in templates for classname in classnames]
    return PromptBundle(
        FeatureTable(file, names, image),
        FeatureTable(file, prompts, text.reshape(len(prompts), -1)),
        labels.astype(np.int64),
        templates,
        classnames,
    )


def _safetensors(file: Path) -> FeatureTable:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        if "features" not in opened.keys():  # noqa: SIM118 - it is no mapping
            raise DataError(
                f"features {file} hold {', '.join(opened.keys()) or 'nothing'}, but no tensor 'features'"
            )
        names = json.loads((opened.metadata() or {}).get("names", "null"))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"features {file}: the header's metadata hold no 'names', a JSON list of strings")
        kind = opened.get_slice("features").get_dtype()
        if kind not in ("F16", "F32", "F64"):
            raise DataError(f"features {file} are of type {kind}; write floats, F16, F32 or F64")
        return FeatureTable(file, names, opened.get_tensor("features"))


def _parquet(file: Path) -> FeatureTable:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        absent = [name for name in ("name", "features") if name not in opened.schema_arrow.names]
        if absent:
            has = ", ".join(opened.schema_arrow.names)
            raise DataError(f"features {file} hold the columns {has}, but no {', '.join(absent)}")
        groups = range(opened.num_row_groups)  # one by one: together, lists may be too many for one array
        table = pa.concat_tables([opened.read_row_group(i, columns=["name", "features"]) for i in groups])
    names, rows = table.column("name"), table.column("features")
    if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
        raise DataError(f"features {file}: column 'name' is of type {names.type}, not of strings")
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_list(rows.type) for is_list in lists) or not pa.types.is_floating(rows.type.value_type):
        raise DataError(f"features {file}: column 'features' is of type {rows.type}, not of lists of floats")
    parts = [chunk.flatten() for chunk in rows.chunks]
    if names.null_count or rows.null_count or any(part.null_count for part in parts):
        raise DataError(f"features {file}: a name or a feature is null")
    lengths = set(pc.list_value_length(rows).to_pylist())
    if len(lengths) != 1:
        raise DataError(
            f"features {file}: rows have {min(lengths, default=0)} to {max(lengths, default=0)} floats"
        )
    values = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    return FeatureTable(file, names.to_pylist(), values.reshape(len(names), -1))


def _texts(file: Path, what: str, values: NDArray[Any]) -> list[str]:
    if values.dtype.kind != "U" or values.ndim != 1:
        raise DataError(
            f"features {file}: {what} are of type {values.dtype}, not a list of strings (np.array([…]))"
        )
    return [str(value) for value in values]
