"""From the bytes of an image file to H×W×3 uint8 RGB, by one stated rule for every format.

- Grey and palette images become RGB; an alpha channel is dropped (colours multiplied by it are divided first,
  as PIL does); of more than three bands the first three are taken as red, green and blue, and of two the first as
  grey.
- Of 16-bit values the high byte is kept: full range to full range, the same for every image.
- Other values (32 bits, 12 bits, signed, floating point) are refused: which range they span is not in the file.
- Orientation tags are ignored, and of several pages the first is taken.

PIL decodes, so that 8-bit images have the very pixels that the usual preprocessing sees. Of TIFF, what PIL refuses
goes to tifffile, and so do bands stored one after the other, of which PIL takes some for others.
The content decides the format, never the name; formats that PIL hands to other programs are not read.
"""

from __future__ import annotations

import io
import logging
import math
import warnings

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError

DECODERS = ("pillow", "tifffile", "imagecodecs")
FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "TIFF",
    "WEBP",
)  # of others, PIL scales 10 to 16 bits by rules of their own
_END_OF_JPEG = b"\xff\xd9"  # these bytes stand in no compressed pixels
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
for _library in ("PIL", "tifffile"):  # what is wrong with a file is raised, and need not be printed too
    logging.getLogger(_library).addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", module=r"PIL\.")
_LARGEST = 2**30  # bytes of a decoded TIFF; of the rest PIL refuses what is too large


def decode(content: bytes, where: str) -> NDArray[np.uint8]:
    """Decode one image file. `where` names it in the DataError raised if that cannot be done."""
    from PIL import UnidentifiedImageError

    if not content:
        raise DataError(f"image {where} is empty (0 bytes)")
    try:
        pixels = _from_tiff(content) if content.startswith(_TIFF) else _from_pil(content)
        if pixels.ndim != 3 or not pixels.size:
            raise ValueError("it has no pixels")
        return pixels
    except Exception as error:  # decoders raise whatever their format makes them trip over
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(FORMATS)}, or its header is damaged"
        raise DataError(f"image {where} cannot be decoded: {reason}") from error


def _from_pil(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    stream = io.BytesIO(content)
    with Image.open(stream, formats=FORMATS) as image:
        # Opened, it stands where the pixels begin. A download that stopped may go on with zeros, decoded as grey.
        if image.format == "JPEG" and content.find(_END_OF_JPEG, stream.tell()) < 0:
            raise ValueError("image file is truncated: its end is not there")
        if image.mode.startswith("I;16"):
            return _to_rgb(np.asarray(image).astype(np.uint16)[..., None])
        if image.mode in ("I", "F"):
            raise ValueError(f"it holds 32-bit or signed values (mode {image.mode}); convert it to 8 or 16 bits")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_tiff(content: bytes) -> NDArray[np.uint8]:
    import tifffile
    from PIL import UnidentifiedImageError

    stream = io.BytesIO(content)
    with tifffile.TiffFile(stream, mode="r+") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        orientation = page.tags.get("Orientation")
        if orientation and orientation.value in range(2, 9):
            orientation.overwrite(1)  # else PIL would turn the pixels, as of no other format
        bits, photometric = page.bitspersample, page.photometric
        if page.sampleformat != tifffile.SAMPLEFORMAT.UINT or bits not in (1, 2, 4, 8, 16):
            raise ValueError(f"it holds {page.dtype} values of {bits} bits; convert it to unsigned 8 or 16 bits")
        if len(page.databytecounts) < math.prod(page.chunked) or 0 in page.databytecounts:
            raise ValueError("parts of it are missing")  # PIL and tifffile would leave them black
        inverted = photometric == tifffile.PHOTOMETRIC.MINISWHITE and bits == 16  # PIL leaves these as they are
        if page.planarconfig == tifffile.PLANARCONFIG.CONTIG and not inverted:
            try:
                return _from_pil(stream.getvalue())
            except UnidentifiedImageError:
                pass
        if photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB) and not inverted:
            raise ValueError(f"its bands are neither grey nor red, green and blue, but {photometric!r}")
        if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
            raise ValueError("its colours are multiplied by alpha; convert it")
        if page.nbytes > _LARGEST:
            raise ValueError(f"it would unpack to {page.nbytes} bytes; refused")
        pixels, axes = page.asarray(), page.axes
    if sorted(axes) == ["S", "X", "Y"]:
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
    elif axes == "YX":
        pixels = pixels[..., None]
    else:
        raise ValueError(f"its axes are {axes}, not those of one image")
    return _to_rgb(~pixels if inverted else pixels)


def _to_rgb(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W, bands) of 8 or 16 bits → (H, W, 3) uint8."""
    if pixels.dtype.itemsize == 2:  # of either byte order
        pixels = pixels.astype(np.uint16) >> np.uint16(8)
    elif pixels.dtype != np.uint8:
        raise ValueError(f"it holds {pixels.dtype} values; convert it to unsigned 8 or 16 bits")
    bands = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    return np.ascontiguousarray(bands.astype(np.uint8))
