"""Packing: every image once, as PIL sees it, in a file that is mapped and never loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_karpathy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from torchvision import transforms

from urbancross_bench.data.domain import Split, split_of
from urbancross_bench.data.pack import pack
from urbancross_bench.data.packed import PackedImages, PackedSplit, Rows
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Domain, ImageFormat, ImageSource, index_splits
from urbancross_bench.modelling.inputs import prepared
from urbancross_bench.registry import Registry

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    file = write_karpathy(tmp_path / "d", images=150)
    return split_of(Registry.discover().resolve("dataset", f"karpathy[file={file}]").build().read(None), "train")


def packed(split: Split, image_format: ImageFormat, folder: Path) -> PackedSplit:
    folder.mkdir()
    pack(split, image_format, folder, lambda _: None)
    return PackedSplit.load(folder)


def all_of(images: PackedImages) -> np.ndarray:
    return images.take(np.arange(len(images))).rows


def test_pixels_names_and_captions_come_back(split: Split, tmp_path: Path) -> None:
    seen: list[float] = []
    (tmp_path / "p").mkdir()
    pack(split, ImageFormat(20), tmp_path / "p", seen.append)
    loaded = PackedSplit.load(tmp_path / "p")
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    for position, name in enumerate(split.image_names):
        with Image.open(tmp_path / "d" / "images" / name) as image:
            assert (loaded.images.take(np.array([position])).rows[0] == np.asarray(image)).all()
    assert list(loaded.image_names) == split.image_names
    assert loaded.captions == split.captions
    assert (loaded.image_of_caption == split.image_of_caption).all()
    assert (load_file(tmp_path / "p" / "images.safetensors")["images"] == all_of(loaded.images)).all()


@pytest.mark.parametrize(("filter_", "pil"), [("bicubic", 3), ("bilinear", 2)])
def test_evaluation_sees_the_reference_preprocessing_bit_for_bit(
    split: Split, tmp_path: Path, filter_: str, pil: int
) -> None:
    """Packed, mapped, scaled and normalised, against torchvision's transforms on PIL images."""
    reference = transforms.Compose(
        [
            transforms.Resize((16, 16), transforms.InterpolationMode(filter_)),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    loaded = packed(split, ImageFormat(16, filter_), tmp_path / "p")  # type: ignore[arg-type]

    class Model:
        mean, std = CLIP_MEAN, CLIP_STD

    ours = prepared(all_of(loaded.images), Model(), torch.device("cpu"))  # type: ignore[arg-type]
    for position, name in enumerate(split.image_names):
        with Image.open(tmp_path / "d" / "images" / name) as image:
            assert torch.equal(ours[position], reference(image.convert("RGB")))
            assert image.resize((16, 16), Image.Resampling(pil)) == Image.fromarray(
                all_of(loaded.images)[position]
            )


def test_the_number_of_threads_changes_no_byte(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for threads in (1, 7):
        monkeypatch.setattr("urbancross_bench.data.pack.cores", lambda threads=threads: threads)
        packed(split, ImageFormat(11), tmp_path / f"p{threads}")
        files.append((tmp_path / f"p{threads}" / "images.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_truncated_image_is_named(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "d" / "images" / split.image_names[1]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=f"{path.name} cannot be decoded"):
        packed(split, ImageFormat(8), tmp_path / "p")


def test_an_image_that_changes_after_it_was_indexed_is_refused(split: Split, tmp_path: Path) -> None:
    assert split.fingerprint
    Image.new("RGB", (20, 20), (1, 2, 3)).save(tmp_path / "d" / "images" / split.image_names[0])
    with pytest.raises(DataError, match=f"{split.image_names[0]} has changed while it was in use"):
        packed(split, ImageFormat(8), tmp_path / "p")


def test_a_folder_that_vanishes_is_named(split: Split, tmp_path: Path) -> None:
    assert split.fingerprint
    (tmp_path / "d" / "images").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"d_000\.png cannot be read: .*No such file"):
        packed(split, ImageFormat(8), tmp_path / "p")


def test_a_pack_that_lost_its_end_is_named(split: Split, tmp_path: Path) -> None:
    packed(split, ImageFormat(8), tmp_path / "p")
    file = tmp_path / "p" / "images.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"images\.safetensors is not whole"):
        PackedSplit.load(tmp_path / "p")


def test_pixels_cannot_be_written_and_hold_no_path(split: Split, tmp_path: Path) -> None:
    images = packed(split, ImageFormat(8), tmp_path / "p").images
    [part] = images._rows._parts
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 0
    assert not hasattr(part, "filename")


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_pixels_are_a_list_of_images(sizes: list[int], data: st.DataObject) -> None:
    """Joined, chosen from, taken and read in blocks, against plain numpy."""
    arrays = [np.full((n, 2, 2, 3), 10 * k, dtype=np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
              for k, n in enumerate(sizes)]  # fmt: skip
    plain, ours = np.concatenate(arrays), PackedImages.joined([PackedImages(Rows([a])) for a in arrays])
    for _ in range(2):
        order = np.array(data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=8)))
        plain, ours = plain[order], ours.chosen(order)
        ours, plain = PackedImages.joined([ours, ours]), np.concatenate([plain, plain])
        assert len(ours) == len(plain)
        assert (np.concatenate([block.rows for block in ours.blocks(data.draw(st.integers(1, 9)))]) == plain).all()
        wanted = np.array(data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=8)), dtype=np.int64)
        assert (ours.take(wanted).rows == plain[wanted]).all()


MEMORY = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, TESTS)
from test_pack import noise
from urbancross_bench.data.domain import split_of
from urbancross_bench.data.pack import pack
from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.data.views import source_view
from urbancross_bench.interfaces import ImageFormat

def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])

pack(split_of(noise(COUNT), "train"), ImageFormat(64), Path(OUT), lambda _: None)
packed = anonymous()
images = source_view([PackedSplit.load(Path(OUT))]).images
total = sum(int(block.rows.sum()) for block in images.blocks(64))
for step in range(50):
    images.take(np.random.default_rng(step).integers(0, COUNT, size=64))
print(json.dumps([packed, anonymous()]))
"""


class Noise(ImageSource):
    def digest(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)


def noise(count: int) -> Domain:
    names, owners = [f"{i}.png" for i in range(count)], np.arange(count)
    return Domain("noise", names, index_splits(["train"] * count), ["a tile"] * count, owners, Noise())


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Ten times the images, 12 KiB each: anonymous memory, mapped pages apart, grows by a small part of theirs."""
    used = {}
    for count in (1000, 10_000):
        out = tmp_path / str(count)
        out.mkdir()
        code = MEMORY.replace("COUNT", str(count)).replace("OUT", repr(str(out)))
        code = code.replace("TESTS", repr(str(Path(__file__).parent)))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        used[count] = json.loads(done.stdout)
    growth = max(large - small for small, large in zip(used[1000], used[10_000], strict=True))
    assert growth < 9000 * 12 / 8
