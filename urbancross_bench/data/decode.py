"""From the bytes of an image file to H×W×3 uint8 RGB, by one stated rule for every format.

- Grey and palette images become RGB; an alpha channel is dropped; of more than three bands the first three are
  taken as red, green and blue, and of two the first as grey.
- Of 16-bit values the high byte is kept: full range to full range, the same for every image.
- 32-bit and floating-point values are refused: which range they span is not in the file.
- Orientation tags are ignored, and of several pages the first is taken.

PIL decodes, so that 8-bit images have the very pixels that the usual preprocessing sees. What PIL cannot open of
TIFF (other bands than 1, 3 or 4, planes stored one after the other) goes to tifffile.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode(content: bytes, where: str) -> NDArray[np.uint8]:
    """Decode one image file. `where` names it in the DataError raised if that cannot be done."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise DataError(f"image {where} is empty (0 bytes)")
    try:
        try:
            with Image.open(io.BytesIO(content)) as image:
                return _from_pil(image)
        except (UnidentifiedImageError, NotImplementedError):
            if not content.startswith(_TIFF):
                raise
        return _from_tiff(content)
    except Exception as error:  # decoders raise whatever their format makes them trip over
        reason = str(error).replace(f" {error.args[0]!r}", "") if isinstance(error, KeyError) else str(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "it is in no image format that PIL knows"
        raise DataError(f"image {where} cannot be decoded: {reason}") from error


def _from_pil(image: object) -> NDArray[np.uint8]:
    from PIL import Image

    assert isinstance(image, Image.Image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _to_rgb(np.asarray(image).astype(np.uint16)[..., None])
    if image.mode in ("I", "F"):
        raise ValueError(f"it holds 32-bit values (mode {image.mode}); convert it to 8 or 16 bits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_tiff(content: bytes) -> NDArray[np.uint8]:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        pixels, axes = page.asarray(), page.axes
    if sorted(axes) == ["S", "X", "Y"]:
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
    elif axes == "YX":
        pixels = pixels[..., None]
    else:
        raise ValueError(f"its axes are {axes}, not those of one image")
    return _to_rgb(pixels)


def _to_rgb(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W, bands) of 8 or 16 bits → (H, W, 3) uint8."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.uint16) >> np.uint16(8)
    elif pixels.dtype != np.uint8:
        raise ValueError(f"it holds {pixels.dtype} values; convert it to unsigned 8 or 16 bits")
    bands = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    return np.ascontiguousarray(bands.astype(np.uint8))
