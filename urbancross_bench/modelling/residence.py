"""Where a batch's rows are gathered, and how they come to the device that trains: three ways to the same batches.

On a CPU rows are gathered from mapped files when they are asked for. On CUDA all rows of a feed are copied to the
device once, if they take little of its memory, and gathered there; else those of the next batch are gathered and
copied by a thread while the device is busy with this one. A device with work in hand is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from urbancross_bench.data.packed import PackedImages, PackedSegments, Rows

Ints = NDArray[np.int64]

SHARE = 0.4  # of a device's free memory: the rest is for activations, gradients and the optimiser
_BLOCK = 64 * 2**20  # bytes copied to the device at a time
THREAD = "the next batch"


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; to CUDA by page-locked memory, since any other copy waits for what it is doing."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Wanted(NamedTuple):
    """The rows of one batch, (B,) each; None for what is not shown."""

    images: Ints | None
    texts: Ints | None


class Gathered(NamedTuple):
    """What the tables hold for a batch, (B, …) each: which rows, and the rows; None where there is none.

    images: (B, S, S, 3) uint8 or (B, D) features; segments: (B, K, …) likewise, zeros where there are fewer.
    """

    image_rows: Tensor | None = None
    images: Tensor | None = None
    segments: Tensor | None = None
    reference_images: Tensor | None = None
    text_rows: Tensor | None = None
    text_features: Tensor | None = None
    reference_texts: Tensor | None = None

    def on(self, device: torch.device) -> Gathered:
        """The same on a device."""
        return Gathered(*(None if part is None else on_device(part, device) for part in self))


class Tables(NamedTuple):
    """All that has a large row for each image or each caption of a view, on the host."""

    images: PackedImages | None = None
    reference_images: Rows | None = None
    text_features: Rows | None = None
    reference_texts: Rows | None = None

    @property
    def nbytes(self) -> int:
        """What copies of all rows take, in bytes, of segments those of the view's own images."""
        held = [self.reference_images, self.text_features, self.reference_texts]
        if self.images is not None:
            held.append(self.images.rows)
            if self.images.segments is not None:
                held.append(self.images.segments.of_images())
        return sum(rows.nbytes for rows in held if rows is not None)

    def gather(self, wanted: Wanted) -> Gathered:
        """Copies of some rows, on the host."""
        taken = Gathered()
        if self.images is not None and wanted.images is not None:
            rows, segments, _ = self.images.take(wanted.images)
            taken = taken._replace(
                image_rows=torch.from_numpy(wanted.images.copy()),
                images=torch.from_numpy(rows),
                segments=None if segments is None else torch.from_numpy(segments),
                reference_images=_some(self.reference_images, wanted.images),
            )
        if wanted.texts is not None:
            taken = taken._replace(
                text_rows=torch.from_numpy(wanted.texts.copy()),
                text_features=_some(self.text_features, wanted.texts),
                reference_texts=_some(self.reference_texts, wanted.texts),
            )
        return taken


class Mapped:
    """Rows are gathered on the host when they are asked for, and then copied."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self._tables = tables
        self._device = device

    def take(self, wanted: Wanted, following: Callable[[], Wanted] | None = None) -> Gathered:
        """A batch on the device. following: gives the rows of the batch after it, for who begins with them now."""
        return self._tables.gather(wanted).on(self._device)


class Ahead(Mapped):
    """A thread gathers the batch that follows, and copies it on a stream of its own, while this one is trained on.

    What is drawn is drawn by the caller: the thread knows rows and no seed, so a batch that was fetched and never
    asked for leaves nothing behind. What fails in the thread fails when its batch is asked for.
    """

    def __init__(self, tables: Tables, device: torch.device) -> None:
        super().__init__(tables, device)
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._next: tuple[Wanted, Future[Gathered]] | None = None

    def take(self, wanted: Wanted, following: Callable[[], Wanted] | None = None) -> Gathered:
        """See `Mapped`. Raises what the thread raised."""
        if self._next is not None and _equal(self._next[0], wanted):
            future, self._next = self._next[1], None
            taken = self._handed_over(future.result())
        else:
            taken = super().take(wanted)
        if following is not None:
            rows = following()
            self._next = rows, _started(partial(self._fetch, rows))
        return taken

    def _fetch(self, wanted: Wanted) -> Gathered:
        """The thread's part: when it is done, so is the copy, and page-locked memory is free again."""
        if self._stream is None:
            return super().take(wanted)
        torch.cuda.set_device(self._stream.device)  # each thread has one of its own, the first unless it says so
        with torch.cuda.stream(self._stream):
            taken = super().take(wanted)
            # Blocking: this thread sleeps, where it would else spin, until the copy is done.
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record(self._stream)
            copied.synchronize()
        return taken

    def _handed_over(self, taken: Gathered) -> Gathered:
        """Memory of the thread's stream is in the training's use from now on, and not free before that is over."""
        if self._stream is not None:
            for part in taken:
                if part is not None:
                    part.record_stream(torch.cuda.current_stream(self._device))
        return taken


class Resident:
    """All rows lie on the device in their packed types, copied once; a batch is gathered there."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        images = tables.images
        self._device = device
        self._images = _copied(images.rows if images is not None else None, device)
        self._segments: _Segments | None = None
        if images is not None and images.segments is not None:
            self._segments = _Segments(images.segments, device)
        self._reference_images = _copied(tables.reference_images, device)
        self._text_features = _copied(tables.text_features, device)
        self._reference_texts = _copied(tables.reference_texts, device)

    def take(self, wanted: Wanted, following: Callable[[], Wanted] | None = None) -> Gathered:
        """See `Mapped`; there is nothing to begin with."""
        images, texts = (
            None if rows is None else on_device(torch.from_numpy(rows.copy()), self._device) for rows in wanted
        )
        return Gathered(
            image_rows=images,
            images=_selected(self._images, images),
            segments=None if self._segments is None or images is None else self._segments.take(images),
            reference_images=_selected(self._reference_images, images),
            text_rows=texts,
            text_features=_selected(self._text_features, texts),
            reference_texts=_selected(self._reference_texts, texts),
        )


class _Segments:
    """Runs of segments on the device, and after them one of zeros, which stands for what is not there."""

    def __init__(self, segments: PackedSegments, device: torch.device) -> None:
        present = segments.present(np.arange(len(segments)))
        values = segments.of_images()
        place = np.full(present.shape, len(values), dtype=np.int64)
        place[present] = np.arange(len(values))
        self._place = torch.from_numpy(place).to(device)
        self._values = _room(values, device, more=1)
        _fill(self._values, values)
        self._values[len(values)] = 0

    def take(self, images: Tensor) -> Tensor:
        """(B, K, …)."""
        place = self._place.index_select(0, images)
        return self._values.index_select(0, place.flatten()).view(*place.shape, *self._values.shape[1:])


class Residence:
    """How rows come to one device for the feeds of one training; how much may stay there they share.

    room: bytes that may stay; by default `SHARE` of what is free on CUDA, and none on a CPU.
    ahead: whether a thread gathers what may not; by default on CUDA alone: on a CPU it would take a core from
    the training.
    """

    def __init__(self, device: torch.device, *, room: int | None = None, ahead: bool | None = None) -> None:
        cuda = device.type == "cuda"
        if room is None:
            room = int(SHARE * torch.cuda.mem_get_info(device)[0]) if cuda else 0
        self._device = device
        self._room = room
        self._ahead = cuda if ahead is None else ahead

    def of(self, tables: Tables) -> Mapped | Resident:
        """The way for one feed: first come, first served."""
        needed = tables.nbytes
        if not needed:
            return Mapped(tables, self._device)
        if needed <= self._room:
            try:
                resident = Resident(tables, self._device)
            except torch.OutOfMemoryError as error:  # another process was faster
                print(f"{error}\nleaving the packed data on the host")
            else:
                self._room -= needed
                return resident
            torch.cuda.empty_cache()
        return (Ahead if self._ahead else Mapped)(tables, self._device)


def _started(work: Callable[[], Gathered]) -> Future[Gathered]:
    """What `work` gives or raises, in a thread that ends with it."""
    future: Future[Gathered] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name=THREAD).start()
    return future


def _equal(one: Wanted, other: Wanted) -> bool:
    return all(a is b if a is None or b is None else np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _some(rows: Rows | None, wanted: Ints) -> Tensor | None:
    return None if rows is None else torch.from_numpy(rows.take(wanted))


def _selected(values: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return None if values is None or rows is None else values.index_select(0, rows)


def _copied(rows: Rows | None, device: torch.device) -> Tensor | None:
    """All rows in their order, on the device."""
    if rows is None:
        return None
    values = _room(rows, device)
    _fill(values, rows)
    return values


def _room(rows: Rows, device: torch.device, more: int = 0) -> Tensor:
    dtype = torch.from_numpy(rows.take(np.arange(0))).dtype
    return torch.empty(len(rows) + more, *rows.shape, dtype=dtype, device=device)


def _fill(values: Tensor, rows: Rows) -> None:
    """A block at a time: what is copied from lies in memory only as long."""
    size = max(1, _BLOCK * len(rows) // max(1, rows.nbytes))
    for start in range(0, len(rows), size):
        stop = min(start + size, len(rows))
        values[start:stop] = torch.from_numpy(rows.take(np.arange(start, stop)))
