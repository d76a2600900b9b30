"""Image files: one rule for every format, from folders and zips, and every damage named."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import imagecodecs
import numpy as np
import pytest
import tifffile
from data_files import encoded, files_of, tiles, write_files
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from urbancross_bench.data import decode as decoding
from urbancross_bench.data import images
from urbancross_bench.data.decode import decode
from urbancross_bench.data.images import FolderImages, NoImages, ZipImages, list_files, open_images, said_missing
from urbancross_bench.errors import DataError

Array = NDArray[Any]
T = TypeVar("T")
ALL_BYTES = np.arange(256, dtype=np.uint8)


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def tif(pixels: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def retagged(content: bytes, **tags: Any) -> bytes:
    """A TIFF with some of its tags overwritten."""
    buffer = io.BytesIO(content)
    with tifffile.TiffFile(buffer, mode="r+b") as file:
        for name, value in tags.items():
            file.pages.first.tags[name].overwrite(value)
    return buffer.getvalue()


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def outcome(call: Callable[[], T]) -> T | DataError:
    """What a call returns, or the named error that it raises; any other goes through."""
    try:
        return call()
    except DataError as error:
        return error


def by_the_rule(pixels: Array) -> Array:
    """(H, W, bands) of 8 or 16 bits → (H, W, 3), by division, band by band."""
    bands = [pixels[..., band] // (256 if pixels.dtype == np.uint16 else 1) for band in range(pixels.shape[-1])]
    chosen = bands[:3] if len(bands) >= 3 else [bands[0]] * 3
    return np.stack(chosen, axis=-1).astype(np.uint8)


# --- what the pixels are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
def test_tiff_of_any_bands_follows_the_rule(bands: int, dtype: type) -> None:
    """Contiguous and planar, in strips and tiles, packed in every usual way, of both byte orders."""
    pixels = noise(37, 50, bands, dtype=dtype)
    packings: list[dict[str, Any]] = [{}, *({"compression": c} for c in ("lzw", "deflate", "zstd", "packbits"))]
    packings += [{"compression": c, "predictor": True} for c in ("lzw", "deflate")]
    cuts: list[dict[str, Any]] = [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}]
    for packing, cut, planes, colour, order in product(
        packings, cuts, ("contig", "separate"), ("minisblack", "rgb"), "<>"
    ):
        if (colour == "rgb" and bands < 3) or (bands == 1 and planes == "separate"):
            continue
        laid = pixels[..., 0] if bands == 1 else pixels if planes == "contig" else np.moveaxis(pixels, -1, 0)
        given = packing | cut | ({} if bands == 1 else {"planarconfig": planes})
        found = decode(tif(laid, photometric=colour, byteorder=order, **given), "x.tif")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, by_the_rule(pixels), str((given, colour, order)))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK"])
def test_eight_bits_are_pils_own_pixels(mode: str) -> None:
    image, written = Image.fromarray(noise(19, 23, 4), "RGBA").convert(mode), 0
    for form in ("png", "tiff", "bmp", "gif", "webp", "jpeg"):
        try:
            content = saved(image, form)
        except (OSError, ValueError):  # the format holds no such images
            continue
        with Image.open(io.BytesIO(content)) as opened:
            expected = np.asarray(opened.convert("RGB"))
        np.testing.assert_array_equal(decode(content, "x"), expected, form)
        written += 1
    assert written >= 3


@pytest.mark.parametrize("form", ["jpeg2000", "ppm"])
def test_formats_whose_deep_values_pil_scales_by_rules_of_their_own_are_refused(form: str) -> None:
    with pytest.raises(DataError, match="it is none of BMP, GIF, JPEG, PNG, TIFF, WEBP"):
        decode(saved(Image.new("RGB", (9, 9)), form), "x")


def test_modes_become_rgb_by_arithmetic() -> None:
    """Independent of PIL's conversions: written by PIL, expected by hand."""
    grey, colour, alpha = noise(9, 8), noise(9, 8, 3, seed=1), noise(9, 8, seed=2)
    table = noise(256, 3, seed=3)
    palette = Image.fromarray(grey, "P")
    palette.putpalette(table.tobytes())
    thrice = np.stack([grey] * 3, axis=-1)
    cases: list[tuple[Image.Image, Array]] = [
        (Image.fromarray(grey), thrice),
        (Image.fromarray(colour), colour),
        (Image.fromarray(np.dstack([grey, alpha]), "LA"), thrice),
        (Image.fromarray(np.dstack([colour, alpha]), "RGBA"), colour),
        (palette, table[grey]),
        (Image.fromarray(grey > 127), np.where(thrice > 127, 255, 0)),
    ]
    for image, expected in cases:
        for form, options in (("png", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"})):
            np.testing.assert_array_equal(
                decode(saved(image, form, **options), "x"), expected, f"{image.mode} {form}"
            )


@pytest.mark.parametrize("shape", [(21, 17), (21, 17, 2), (21, 17, 3), (21, 17, 4)])
def test_png_of_sixteen_bits_keeps_the_high_byte(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, dtype=np.uint16)
    expected = by_the_rule(pixels if pixels.ndim == 3 else pixels[..., None])
    np.testing.assert_array_equal(decode(imagecodecs.png_encode(pixels), "x.png"), expected)


def test_full_range_goes_to_full_range() -> None:
    ramp = (np.arange(65536, dtype=np.uint16)).reshape(256, 256)
    for content in (imagecodecs.png_encode(ramp), tif(ramp), tif(ramp, compression="lzw")):
        np.testing.assert_array_equal(decode(content, "x")[..., 0], np.repeat(ALL_BYTES[:, None], 256, axis=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero(dtype: type) -> None:
    pixels = noise(12, 9, dtype=dtype)
    expected = by_the_rule((np.iinfo(dtype).max - pixels)[..., None])
    np.testing.assert_array_equal(decode(tif(pixels, photometric="miniswhite"), "x.tif"), expected)


def test_orientation_is_ignored_and_the_first_page_taken() -> None:
    pixels, other = noise(12, 9, 3), noise(12, 9, 3, seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = saved(Image.fromarray(pixels), "png", exif=exif)
    for packing in (None, "deflate", "jpeg"):
        square = noise(16, 32, 3)
        orientation = {"extratags": [(0x0112, 3, 1, 1, True)], "compression": packing, "photometric": "rgb"}
        for planes in ("contig", "separate"):
            laid = square if planes == "contig" else square.transpose(2, 0, 1)
            upright = tif(laid, planarconfig=planes, **orientation)
            for way in range(2, 9):
                np.testing.assert_array_equal(
                    decode(retagged(upright, Orientation=way), "x"), decode(upright, "x")
                )
            assert decode(upright, "x").shape == square.shape
    pages = saved(Image.fromarray(pixels), "tiff", save_all=True, append_images=[Image.fromarray(other)])
    both = np.stack([noise(12, 9, 5), noise(12, 9, 5, seed=1)])
    bands = tif(both, photometric="minisblack", planarconfig="contig")
    for content in (turned, pages):
        np.testing.assert_array_equal(decode(content, "x"), pixels)
    np.testing.assert_array_equal(decode(bands, "x"), noise(12, 9, 5)[..., :3])


def test_content_decides_the_format_never_the_name(tmp_path: Path) -> None:
    pixels = noise(9, 9, 3)
    write_files(tmp_path, {"a.jpg": encoded(pixels, "png"), "b.png": encoded(pixels, "tif"), "c": encoded(pixels)})
    source = FolderImages(tmp_path, ["a.jpg", "b.png", "c"])
    for index in range(3):
        np.testing.assert_array_equal(source.read(index), pixels)


PLANES: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate"}
PREMULTIPLIED: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["assocalpha"]}

# --- what is no image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tif(np.zeros((4, 4), np.float32)), "32 bits"),
        (tif(np.zeros((4, 4, 5), np.float16), photometric="minisblack"), "float16"),
        (tif(np.zeros((4, 4, 4), np.float64), photometric="minisblack", planarconfig="contig"), "float64"),
        (tif(np.zeros((4, 4), np.uint32)), "32 bits"),
        (tif(np.zeros((4, 4), np.int16)), "int16 values"),
        (tif(np.zeros((4, 4), np.int8)), "int8 values"),
        (tif(np.zeros((4, 4), np.uint16), bitspersample=12), "12 bits"),
        (tif(np.zeros((4, 4, 4), np.uint8), **PLANES | {"photometric": "separated"}), "bands are neither"),
        (tif(np.zeros((4, 4, 4), np.uint8), **PLANES | PREMULTIPLIED), "multiplied by alpha"),
        (tif(np.zeros((5, 2, 4, 4), np.uint8), **PLANES, volumetric=True), "not those of one image"),
        (saved(Image.new("I", (4, 4)), "tiff"), "32 bits"),
        (retagged(tif(noise(5, 4, 4), **PLANES), ImageWidth=0), "it has no pixels"),
        (b"", r"is empty \(0 bytes\)"),
        (b"a caption, not an image .\n" * 40, "it is none of BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "it is none of BMP"),
        (b"GIF89a", "cannot be decoded"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (b"II*\0", "cannot be decoded"),
    ],
)
def test_what_cannot_be_decoded_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^image dir/x\.tif .*{message}"):
        decode(content, "dir/x.tif")


def huge_png() -> bytes:
    """A PNG of 67 bytes that says it is 60,000 pixels wide and high."""
    small = encoded(np.zeros((1, 1, 3), np.uint8))
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def huge_tif(bands: int, planar: bool) -> bytes:
    """A TIFF of a few hundred bytes that says the same."""
    small = noise(bands, 4, 4)
    laid, planes = (small, "separate") if planar else (small.transpose(1, 2, 0), "contig")
    content = tif(laid, photometric="minisblack", planarconfig=planes, compression="lzw")
    return retagged(content, ImageWidth=60_000, ImageLength=60_000, RowsPerStrip=60_000)


@pytest.mark.parametrize("content", [huge_png(), *(huge_tif(b, p) for b in (2, 5, 13) for p in (False, True))])
def test_a_decompression_bomb_is_refused_before_it_unpacks(content: bytes) -> None:
    assert len(content) < 2000
    with pytest.raises(DataError, match=r"image x cannot be decoded: .*(refused|exceeds limit)"):
        decode(content, "x")


@pytest.mark.parametrize("packing", [None, "lzw"])
@pytest.mark.parametrize("laid", ["grey", "rgb", "five bands", "planes", "tiles"])
def test_a_tiff_with_a_part_missing_is_refused(laid: str, packing: str | None) -> None:
    """Left to themselves, PIL and tifffile make it black."""
    pixels = {"grey": noise(32, 16), "rgb": noise(32, 16, 3), "planes": noise(5, 32, 16)}.get(
        laid, noise(32, 16, 5)
    )
    how = PLANES if laid == "planes" else {"photometric": "rgb" if laid == "rgb" else "minisblack"}
    how = how | ({"planarconfig": "contig"} if pixels.ndim == 3 and laid != "planes" else {})
    content = tif(
        pixels, compression=packing, **how | ({"tile": (16, 16)} if laid == "tiles" else {"rowsperstrip": 8})
    )
    decode(content, "x")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        counts = file.pages.first.databytecounts
    name = "TileByteCounts" if laid == "tiles" else "StripByteCounts"
    for damaged in (retagged(content, **{name: [counts[0], 0, *counts[2:]]}), retagged(content, ImageLength=64)):
        with pytest.raises(DataError, match="parts of it are missing"):
            decode(damaged, "x")


BANDS: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
WHOLE = {
    "png": encoded(noise(40, 30, 3)),
    "jpg": encoded(noise(40, 30, 3), "jpg"),
    "progressive jpg": encoded(noise(40, 30, 3), "jpg", progressive=True),
    "tif": encoded(noise(40, 30, 3), "tif"),
    "tif LZW": encoded(noise(40, 30, 3), "tif", compression="tiff_lzw"),
    "tif 16 bits": tif(noise(40, 30, dtype=np.uint16), compression="deflate"),
    "tif 13 bands": tif(noise(40, 30, 13, dtype=np.uint16), **BANDS),
    "tif 13 bands LZW": tif(noise(40, 30, 13, dtype=np.uint16), **BANDS, compression="lzw"),
    "tif planar": tif(noise(5, 40, 30), **PLANES, compression="lzw"),
    "webp": encoded(noise(40, 30, 3), "webp"),
    "gif": encoded(noise(40, 30), "gif"),
}


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_image_is_refused_unless_all_its_pixels_are_there(kind: str) -> None:
    content = WHOLE[kind]
    whole, refused = decode(content, "x"), 0
    cuts = {*np.linspace(0, len(content) - 1, 40).astype(int).tolist(), *range(len(content) - 6, len(content))}
    for cut in cuts:
        found = outcome(lambda cut=cut: decode(content[:cut], "x"))  # type: ignore[misc]
        if isinstance(found, DataError):
            assert str(found).startswith("image x ")
            refused += 1
        else:
            np.testing.assert_array_equal(found, whole, f"cut at {cut} of {len(content)}")
    assert refused > 0.8 * len(cuts)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_end_was_never_written_is_refused(progressive: bool) -> None:
    """The file has its size and zeros at its end; PIL makes them grey. What stands behind an image is its own."""
    # What a camera says of the image may hold a small image of its own.
    inner = b"Exif\0\0" + encoded(noise(8, 8, 3), "jpg")
    content = encoded(noise(160, 120, 3), "jpg", progressive=progressive, exif=inner)
    assert content.count(b"\xff\xd9") == 2
    whole = decode(content, "x")
    for share in (0.1, 0.3, 0.6, 0.9):
        kept = int(len(content) * (1 - share))
        # Where most is zeros, Pillow 12 does not find the image at all.
        told = "image file is truncated" + ("|.*its header is damaged" if share == 0.9 else "")
        with pytest.raises(DataError, match=rf"image x cannot be decoded: ({told})"):
            decode(content[:kept] + bytes(len(content) - kept), "x")
    np.testing.assert_array_equal(decode(content + b"\xff\xda a film \0\0", "x"), whole)


def test_what_pil_has_to_say_of_an_image_is_not_printed() -> None:
    palette = Image.fromarray(noise(9, 9, 3)).quantize(16)
    content = saved(palette, "png", transparency=bytes(range(16)))
    code = f"from urbancross_bench.data.decode import decode; print(decode({content!r}, 'x').shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(9, 9, 3)\n", "")


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=5),
)
def test_a_damaged_image_gives_pixels_or_a_named_error(kind: str, flips: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE[kind])
    for place, change in flips:
        content[place % min(len(content), 400)] ^= change
    found = outcome(lambda: decode(bytes(content), "x"))
    if isinstance(found, DataError):
        assert str(found).startswith("image x ")
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3


def test_decoding_is_the_same_in_threads() -> None:
    contents = [*WHOLE.values()] * 5
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda content: decode(content, "x"), contents))
    for content, found in zip(contents, together, strict=True):
        np.testing.assert_array_equal(found, decode(content, "x"))


# --- folders ----------------------------------------------------------------------------------------------------


def test_names_may_hold_folders_and_any_letters(tmp_path: Path) -> None:
    some = {"a.png": 1, "images2/b.png": 2, "cafe\u0301 机场.png": 3, "x" * 200 + ".png": 4}
    for place in (tmp_path / "images", tmp_path / "images.zip"):
        write_files(place, {n: encoded(np.full((2, 2, 3), v, np.uint8)) for n, v in some.items()})
        source = open_images(place, list(some))
        assert source.missing() == {}
        assert [int(source.read(index)[0, 0, 0]) for index in range(4)] == [1, 2, 3, 4]
        assert len({source.digest(index) for index in range(4)}) == 4


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "a\0.png"])
def test_no_name_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    write_files(tmp_path / "images", {"a.png": b"x"})
    write_files(tmp_path / "images.zip", {"a.png": b"x"})
    for place in ("images", "images.zip"):
        with pytest.raises(DataError, match="leads out of"):
            open_images(tmp_path / place, ["a.png", name])


def spoil(file: Path, how: str) -> None:
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "link to nowhere":
        file.symlink_to(file.with_name("nowhere.png"))
    elif how == "link to itself":
        file.symlink_to(file)
    elif how == "link to a folder":
        file.symlink_to(file.parent)


@pytest.mark.parametrize(
    "how", ["gone", "folder", "pipe", "link to nowhere", "link to itself", "link to a folder"]
)
@pytest.mark.parametrize("name", ["b.png", "sub/b.png"])
def test_what_is_no_file_is_missing_and_others_are_read(tmp_path: Path, how: str, name: str) -> None:
    files = files_of(tiles(2))
    names = ["a.png", name]
    write_files(tmp_path, dict(zip(names, files.values(), strict=True)))
    spoil(tmp_path / name, how)
    source = FolderImages(tmp_path, names)
    said = "the link leads nowhere" if "link" in how else "no such file"
    assert source.missing() == {1: said}
    np.testing.assert_array_equal(source.read(0), tiles(1)[0].pixels)
    with pytest.raises(DataError, match=r"b\.png"):
        source.read(1)
    with pytest.raises(DataError, match=r"b\.png"):
        source.digest(1)


def test_a_link_to_an_image_is_an_image(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": encoded(noise(3, 3, 3))})
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    source = FolderImages(tmp_path, ["a.png", "b.png"])
    assert source.missing() == {}
    assert source.digest(0) == source.digest(1)


def test_a_name_too_long_for_the_disk_is_missing(tmp_path: Path) -> None:
    source = FolderImages(tmp_path, ["x" * 3000 + ".png"])
    assert source.missing() == {0: "no such file"}
    for call in (source.read, source.digest):
        with pytest.raises(DataError, match="too long"):
            call(0)


def test_a_folder_or_file_that_vanishes_is_named(tmp_path: Path) -> None:
    files = files_of(tiles(3))
    for place in (tmp_path / "images", tmp_path / "images.zip"):
        source = open_images(write_files(place, files), list(files))
        source.read(0)
        if place.suffix:  # a zip that is open stays readable; whoever opens it now sees that it is gone
            source = open_images(place, list(files))
        place.rename(tmp_path / f"elsewhere{place.suffix}")
        for call in (source.read, source.digest):
            with pytest.raises(DataError, match=r"images(\.zip)?"):
                call(1)
        if not place.suffix:
            with pytest.raises(DataError, match=r"image folder .*images cannot be read"):
                source.missing()
        with pytest.raises(DataError, match="there is no such folder or zip"):
            open_images(place, list(files))


@pytest.mark.parametrize("place", ["images", "images.zip"])
def test_an_image_that_changes_in_use_is_named(tmp_path: Path, place: str) -> None:
    files = files_of(tiles(3))
    source = open_images(write_files(tmp_path / place, files), list(files))
    first, second, _ = files
    source.digest(0)
    source.read(0)
    write_files(tmp_path / place, files | {second: encoded(noise(5, 5, 3))})
    other = open_images(tmp_path / place, list(files))
    assert other.digest(0) == source.digest(0)
    assert other.digest(1) != source.digest(1)
    fresh = open_images(tmp_path / place, list(files))
    fresh._digests = source._digests  # type: ignore[attr-defined]  # as if indexed before the change
    np.testing.assert_array_equal(fresh.read(0), tiles(1)[0].pixels)
    with pytest.raises(DataError, match=f"{second} has changed while it was in use"):
        fresh.read(1)
    assert first != second


def test_a_folder_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Names on disk in another encoding: others are read, and the place of the data may be called so."""
    home = tmp_path / os.fsdecode(b"caf\xe9")
    write_files(home / "images", {"a.png": encoded(noise(3, 3, 3)), os.fsdecode(b"caf\xe9.png"): b"x"})
    source = open_images(home / "images", ["a.png", os.fsdecode(b"caf\xe9.png"), "café.png"])
    assert source.missing() == {2: "no such file"}
    assert list_files(home / "images") == ["a.png", os.fsdecode(b"caf\xe9.png")]
    kept = open_images(home / "images", ["a.png", os.fsdecode(b"caf\xe9.png")])
    assert len({kept.digest(0), kept.digest(1)}) == 2
    np.testing.assert_array_equal(kept.read(0), noise(3, 3, 3))


def test_a_file_larger_than_any_tile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST", 1000)
    write_files(tmp_path, {"a.png": b"x" * 1000, "b.png": b"x" * 1001})
    source = FolderImages(tmp_path, ["a.png", "b.png"])
    assert isinstance(source.content(0), bytes)
    with pytest.raises(DataError, match=r"b\.png is larger than"):
        source.content(1)


def test_without_images_there_are_captions_alone() -> None:
    source = open_images(None, ["a.png", "b.png"])
    assert isinstance(source, NoImages)
    assert source.missing() == dict.fromkeys((0, 1), "opened without images")
    assert source.digest(0) != source.digest(1)
    assert source.digest(0) == NoImages(["a.png"]).digest(0)
    with pytest.raises(DataError, match=r"image b\.png: this domain was opened without images"):
        source.read(1)


def test_files_are_listed_alike_in_folder_and_zip(tmp_path: Path) -> None:
    files = {"b/2.png": b"", "a/10.png": b"", "a/2.png": b"", "c.png": b""}
    expected = ["a/10.png", "a/2.png", "b/2.png", "c.png"]
    for place in (tmp_path / "f", tmp_path / "f.zip"):
        assert list_files(write_files(place, files)) == expected
    assert list_files(write_files(tmp_path / "g", dict(reversed(files.items())))) == expected


@pytest.mark.parametrize("place", ["f", "f.zip"])
def test_of_a_missing_name_that_is_there_in_another_form_both_are_said(tmp_path: Path, place: str) -> None:
    """In capitals, or in letters that look the same: as a Mac or a Windows disk lets them through."""
    files = {"Airport_3.PNG": b"", "cafe\u0301.png": b"", "whole.png": b""}
    source = open_images(
        write_files(tmp_path / place, files), ["airport_3.png", "caf\xe9.png", "whole.png", "far.png"]
    )
    reason = "no such member" if place.endswith("zip") else "no such file"
    assert source.missing() == {
        0: f"{reason}; 'Airport_3.PNG' is there, not 'airport_3.png'",
        1: rf"{reason}; 'cafe\u0301.png' is there, not 'caf\xe9.png'",
        3: reason,
    }


@pytest.mark.parametrize("place", ["own/images", "own/images.zip"])
def test_of_a_name_with_too_much_or_too_little_what_is_there_is_said(tmp_path: Path, place: str) -> None:
    """With the folder before it, as a csv beside the folder may have it, without an extension, or with another."""
    content = {"1000.jpg": b"", "1001.JPG": b""}
    source = open_images(write_files(tmp_path / place, content), ["images/1000.jpg", "1000", "1001.png", "2.jpg"])
    reason, finds = "no such member", ""
    if not place.endswith("zip"):
        reason, finds = "no such file", f"; images={tmp_path / 'own'} finds it"
    assert source.missing() == {
        0: f"{reason}; '1000.jpg' is there, not 'images/1000.jpg'{finds}",
        1: f"{reason}; '1000.jpg' is there, not '1000'",
        2: f"{reason}; '1001.JPG' is there, not '1001.png'",
        3: reason,
    }
    said = said_missing(source, source.missing(), ["images/1000.jpg", "1000", "1001.png", "2.jpg"])
    assert said.startswith("4 of 4 images are missing, 'images/1000.jpg' the first (no such ")
    assert said.endswith(f"; looked in {tmp_path / place}")


def test_of_a_name_that_leads_out_it_is_said_what_to_write(tmp_path: Path) -> None:
    place = write_files(tmp_path / "images", {"a/1.png": b""})
    with pytest.raises(DataError, match=r"leads out of .*/images; names start in it: write 'a/1\.png'"):
        open_images(place, [f"{place}/a/1.png"])
    for name in ("/a/1.png", "../images/a/1.png"):
        with pytest.raises(DataError, match="names start in it; the option `images` names another folder"):
            open_images(place, [name])


def test_links_are_listed_as_what_they_lead_to(tmp_path: Path) -> None:
    """Segments and images are often kept on another disk; two links may lead to one folder."""
    write_files(tmp_path / "disk", {"1.png": b"", "below/2.png": b""})
    place = write_files(tmp_path / "f", {"a.png": b"", "sub/b.png": b""})
    for name, target in (("x", "../disk"), ("y", "../disk/below"), ("sub/up", ".."), ("l.png", "a.png")):
        (place / name).symlink_to(target)
    for name in ("gone.png", "self.png"):
        (place / name).symlink_to(name if name == "self.png" else "nowhere")
    os.mkfifo(place / "pipe.png")
    (tmp_path / "disk" / "round").symlink_to(place)
    assert list_files(place) == sorted(
        ["a.png", "sub/b.png", "l.png", "gone.png", "self.png", "x/1.png", "x/below/2.png", "y/2.png"]
    )
    assert open_images(place, ["gone.png", "self.png"]).missing() == dict.fromkeys(
        (0, 1), "the link leads nowhere"
    )


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, scandir = write_files(tmp_path / "f", {"a.png": b"", "sub/b.png": b""}), os.scandir

    def refusing(folder: Path) -> Any:  # for the superuser there is no such folder
        if folder == place / "sub":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"folder .*/f cannot be read: .*Permission denied: '.*/f/sub'"):
        list_files(place)


# --- zips -------------------------------------------------------------------------------------------------------


def zipped(file: Path, *members: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip with exactly these members, whatever they are called."""
    with zipfile.ZipFile(file, "w", packing) as opened:
        for name, content in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, packing
            opened.writestr(info, content)
    return file


def patched(file: Path, signature: bytes, offset: int, value: bytes) -> Path:
    """The last header of a kind, with some of its bytes replaced."""
    content = bytearray(file.read_bytes())
    at = content.rindex(signature) + offset
    content[at : at + len(value)] = value
    file.write_bytes(bytes(content))
    return file


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def test_a_zip_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    some = tiles(2)
    members = [(f"data/images/{name}", content) for name, content in files_of(some).items()]
    rubbish = ("__MACOSX/data/images/._x.png", b"x"), (f"__MACOSX/data/images/{some[0].name}", b"x")
    file = zipped(tmp_path / "i.zip", ("data/images/", b""), *members, *rubbish)
    source = ZipImages(file, [tile.name for tile in some])
    assert source.missing() == {}
    for index, tile in enumerate(some):
        np.testing.assert_array_equal(source.read(index), tile.pixels)
    assert set(source.folders().values()) == {"data/images/"}
    name = some[0].name
    parts = ZipImages(file, [f"images/{name}", name[1:], f"ages/{name}", f"data/{name}", f"x/data/images/{name}"])
    assert set(parts.missing()) == {1, 2, 3, 4}
    assert parts.missing()[1] == "no such member"
    assert f"; 'data/images/{name}' is there, not 'ages/{name}'" in parts.missing()[2]


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "C:\\a.png", "..\\a.png", "x\\a.png", ""])
def test_a_zip_with_a_member_that_leads_out_is_not_trusted(tmp_path: Path, name: str) -> None:
    file = zipped(tmp_path / "i.zip", ("b.png", b"x"), (name, b"x"))
    for call in (lambda: ZipImages(file, ["b.png"]), lambda: list_files(file)):
        with pytest.raises(
            DataError, match=r"zip .*i\.zip holds the member .* leads out of it; not trusted"
        ) as told:
            call()
        assert ("pack it again, with `/`" in str(told.value)) == ("\\" in name)


def unmarked(file: Path, *members: tuple[str, bytes]) -> Path:
    """A zip whose names are in UTF-8 without the mark that says so, as older tools write them."""
    zipped(file, *members)
    content = file.read_bytes()
    for header, at in ((LOCAL, 6), (CENTRAL, 8)):
        parts = content.split(header)
        marked = [int.from_bytes(part[at - 4 : at - 2], "little") for part in parts[1:]]
        assert any(flags & 0x800 for flags in marked)
        cleared = [
            part[: at - 4] + (flags & ~0x800).to_bytes(2, "little") + part[at - 2 :]
            for flags, part in zip(marked, parts[1:], strict=True)
        ]
        content = header.join([parts[0], *cleared])
    file.write_bytes(content)
    return file


def test_names_in_a_zip_that_does_not_say_that_they_are_utf_8_are_read_so(tmp_path: Path) -> None:
    names = ["café/机场_1.png", "plain.png", "été.png"]
    file = unmarked(tmp_path / "i.zip", *((name, name.encode()) for name in names))
    images = ZipImages(file, names)
    assert images.missing() == {}
    assert [images.content(index).decode() for index in range(3)] == names
    assert list_files(file) == sorted(names)


def test_names_in_a_zip_that_are_in_another_code_page_or_taken_stay_as_they_are(tmp_path: Path) -> None:
    raw = "é.png".encode().decode("cp437")
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as opened:
        opened.writestr("é.png", b"marked")
        opened.writestr("XX.png", b"not")
        opened.writestr("Y.png", b"another")
    content = (tmp_path / "i.zip").read_bytes()
    content = content.replace(b"XX.png", "é.png".encode()).replace(b"Y.png", "¢.png".encode("cp437"))
    (tmp_path / "i.zip").write_bytes(content)
    images = ZipImages(tmp_path / "i.zip", ["é.png", raw, "¢.png"])
    assert [images.content(index) for index in range(3)] == [b"marked", b"not", b"another"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("places", [("a.png", "a.png"), ("x/a.png", "y/a.png")])
def test_a_name_that_a_zip_holds_twice_is_refused(tmp_path: Path, places: tuple[str, str]) -> None:
    file = zipped(tmp_path / "i.zip", *((place, place.encode()) for place in places), ("b.png", b"b"))
    with pytest.raises(DataError, match=rf"holds 'a\.png' more than once: {places[0]} and {places[1]}"):
        ZipImages(file, ["a.png"])
    assert ZipImages(file, ["b.png"]).content(0) == b"b"
    if places == ("x/a.png", "y/a.png"):
        both = ZipImages(file, ["x/a.png", "y/a.png"])
        assert [both.content(0), both.content(1)] == [b"x/a.png", b"y/a.png"]


def test_a_whole_name_is_found_before_one_in_a_folder(tmp_path: Path) -> None:
    """As in a folder of files, where thumbs/a.png is another image."""
    file = zipped(tmp_path / "i.zip", ("thumbs/a.png", b"small"), ("a.png", b"large"))
    images = open_images(file, ["a.png", "./a.png", "thumbs/a.png"])
    assert isinstance(images, ZipImages)
    assert [images.content(i) for i in range(3)] == [b"large", b"large", b"small"]


def encrypted(file: Path) -> Path:
    zipped(file, ("a.png", b"x" * 50))
    patched(file, LOCAL, 6, b"\1\0")
    return patched(file, CENTRAL, 8, b"\1\0")


def wrong_sum(file: Path) -> Path:
    zipped(file, ("a.png", encoded(noise(9, 9, 3))), packing=zipfile.ZIP_STORED)
    return patched(file, LOCAL, 60, b"\xff\xff\xff")


def odd_packing(file: Path) -> Path:
    zipped(file, ("a.png", b"x" * 50))
    patched(file, LOCAL, 8, b"\x61\0")
    return patched(file, CENTRAL, 10, b"\x61\0")


def other_name(file: Path) -> Path:
    return patched(zipped(file, ("a.png", b"x" * 50)), LOCAL, 30, b"b.png")


def bad_stream(file: Path) -> Path:
    return patched(zipped(file, ("a.png", bytes(range(256)) * 9)), LOCAL, 36, b"\xff" * 20)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (encrypted, "encrypted"),
        (wrong_sum, "Bad CRC-32"),
        (odd_packing, "compression"),
        (other_name, "differ"),
        (bad_stream, ""),
    ],
)
def test_a_damaged_member_is_named(tmp_path: Path, damage: Callable[[Path], Path], message: str) -> None:
    source = ZipImages(damage(tmp_path / "i.zip"), ["a.png"])
    for call in (source.content, source.read):
        with pytest.raises(DataError, match=rf"image .*i\.zip:a\.png cannot be read: .*{message}"):
            call(0)


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST", 10_000)
    bomb = zipped(tmp_path / "bomb.zip", ("a.png", bytes(1_000_000)))
    assert bomb.stat().st_size < 2_000
    with pytest.raises(DataError, match="would unpack to 1000000 bytes; refused"):
        ZipImages(bomb, ["a.png"]).content(0)
    declared = patched(zipped(tmp_path / "d.zip", ("a.png", b"x")), CENTRAL, 24, struct.pack("<I", 2**31))
    with pytest.raises(DataError, match="would unpack to 2147483648 bytes; refused"):
        ZipImages(declared, ["a.png"]).content(0)
    # The header says that it is small: no more than that is unpacked, and its sum is wrong.
    liar = patched(zipped(tmp_path / "l.zip", ("a.png", bytes(1_000_000))), CENTRAL, 24, struct.pack("<I", 500))
    with pytest.raises(DataError, match="Bad CRC-32"):
        ZipImages(liar, ["a.png"]).content(0)


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    good = zipped(tmp_path / "good.zip", *((f"{n}.png", bytes(range(n, n + 99))) for n in range(9))).read_bytes()
    bad = {
        "empty": b"",
        "text": b"not a zip at all\n" * 20,
        "png": encoded(noise(9, 9, 3)),
        **{f"cut at {share}": good[: len(good) * share // 10] for share in range(1, 10)},
    }
    for name, content in bad.items():
        (tmp_path / "bad.zip").write_bytes(content)
        for call in (
            lambda: open_images(tmp_path / "bad.zip", ["1.png"]),
            lambda: list_files(tmp_path / "bad.zip"),
        ):
            with pytest.raises(DataError, match=r"zip .*bad\.zip cannot be read"):
                call()
        assert name


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=4), st.booleans())
def test_a_zip_with_flipped_bytes_gives_what_was_put_in_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], headers: bool
) -> None:
    members = {f"{n}.png": bytes(range(n, n + 60)) for n in range(4)}
    folder = tmp_path_factory.getbasetemp() / "flipped"
    content = bytearray(write_files(folder / "i.zip", members).read_bytes())
    first = content.index(CENTRAL) if headers else 0
    for place, change in flips:
        content[first + place % (len(content) - first)] ^= change
    (folder / "i.zip").write_bytes(bytes(content))
    source = outcome(lambda: ZipImages(folder / "i.zip", list(members)))
    if isinstance(source, DataError):
        assert "i.zip" in str(source)
        return
    for index, (name, expected) in enumerate(members.items()):
        found = outcome(lambda index=index: source.content(index))  # type: ignore[misc]
        assert name in str(found) if isinstance(found, DataError) else found == expected


@pytest.mark.parametrize("place", ["images", "images.zip"])
def test_threads_and_forked_processes_read_what_one_reads(tmp_path: Path, place: str) -> None:
    some = tiles(12)
    source = open_images(write_files(tmp_path / place, files_of(some)), [tile.name for tile in some])
    source.read(0)  # the zip is open before the process is forked
    order = np.random.default_rng(0).integers(0, len(some), 300).tolist()
    start = threading.Barrier(4)

    def work(part: list[int]) -> list[bool]:
        start.wait()
        return [bool((source.read(index) == some[index].pixels).all()) for index in part]

    with ThreadPoolExecutor(4) as threads:
        assert all(all(found) for found in threads.map(work, (order[k::4] for k in range(4))))
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os._exit(0 if all((source.read(index) == some[index].pixels).all() for index in order) else 1)
        children.append(child)
    mine = all(bool((source.read(index) == some[index].pixels).all()) for index in order)
    assert mine
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files here")
def test_a_forked_process_opens_the_zip_for_itself(tmp_path: Path) -> None:
    """Else both would move the one position that they share."""
    some = tiles(12, size=64)  # more than a buffer holds
    file = write_files(tmp_path / "images.zip", files_of(some))
    source = ZipImages(file, [tile.name for tile in some])
    source.read(0)
    shared = next(int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.samefile(file))
    before = os.lseek(shared, 0, os.SEEK_CUR)
    child = os.fork()
    if child == 0:
        os._exit(0 if (source.read(11) == some[11].pixels).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.lseek(shared, 0, os.SEEK_CUR) == before


def test_formats_that_other_programs_read_stay_closed() -> None:
    assert not {"EPS", "WMF", "PDF"} & set(decoding.FORMATS)
