"""TensorBoard: event files written with its own package, without torch."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from urbancross_bench.interfaces import Options, Scores, Tracker
from urbancross_trackers.folders import writable
from urbancross_trackers.naming import facts, numbers, run_title, scored, training_title

_WHOLE = ".whole"  # beside event files: what was told of a run that was done


class TensorboardOptions(Options):
    """Options of the tracker `tensorboard`."""

    folder: str | None = Field(
        default=None, description="where event files go; by default `tensorboard` in the output folder"
    )


class Tensorboard(Tracker):
    """A TensorBoard run for each training, with a point per pass, and one for each run, with its scores.

    Files are written event by event and closed again: any number of trainings, and nothing lost to a kill.
    """

    options_type = TensorboardOptions

    def on_grid_started(self, out: str, grid: str, runs: Sequence[Mapping[str, Any]]) -> None:
        """Settle the folder; a file name of this session's own keeps apart those of several."""
        chosen = cast(TensorboardOptions, self.options).folder
        self._folder = writable(Path(out) / "tensorboard" if chosen is None else Path(chosen))
        self._file = f"events.out.tfevents.{time.time_ns() // 1000}.urbancross"

    def on_run_reused(
        self, run: Mapping[str, Any], trainings: Sequence[Mapping[str, Any]], scores: Scores
    ) -> None:
        """The same, once, in place of whatever was told of it while it was not done."""
        for training in trainings:
            place = self._training(training["stage"], training["key"])
            if not (place / _WHOLE).exists():
                for values in training["passes"]:
                    self.on_epoch_ended(training["stage"], values, training["key"])
                place.joinpath(_WHOLE).touch()
        place = self._of_run(run)
        if not (place / _WHOLE).exists():
            self.on_run_finished(run, "ok", None, scores)
            place.joinpath(_WHOLE).touch()

    def on_epoch_ended(self, stage: str, values: Mapping[str, float], key: str) -> None:
        """A point of each curve, at the step that the pass ended with."""
        place = self._training(stage, key)
        self._write(place, {f"train/{name}": value for name, value in numbers(values).items()}, values["step"])

    def on_run_finished(self, run: Mapping[str, Any], status: str, error: str | None, scores: Scores) -> None:
        """The scores, and as a text what the run is and how it ended."""
        said = {**facts(run), "status": status} | ({"error": error} if error else {})
        rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in said.items())
        text = f"| | |\n|---|---|\n{rows}"
        self._write(self._of_run(run), scored(scores), 0, text)

    def _training(self, stage: str, key: str) -> Path:
        return self._folder / "trainings" / _as_folder(training_title(stage, key))

    def _of_run(self, run: Mapping[str, Any]) -> Path:
        return self._folder / "runs" / _as_folder(run_title(run))

    def _write(self, place: Path, scalars: Mapping[str, float], step: float, text: str = "") -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.summary.writer.record_writer import RecordWriter

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        if text:
            shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
            tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
            kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
            values.append(Summary.Value(tag="run/text_summary", metadata=kind, tensor=tensor))
        place.mkdir(parents=True, exist_ok=True)
        now, file = time.time(), place / self._file
        events = [Event(wall_time=now, step=int(step), summary=Summary(value=values))]
        if not file.exists():
            # Of what an earlier session wrote, TensorBoard then leaves out what this one writes again.
            start = Event(wall_time=now, step=int(step), session_log=SessionLog(status=SessionLog.START))
            events = [Event(wall_time=now, file_version="brain.Event:2"), start, *events]
        with file.open("ab") as records:
            writer = RecordWriter(records)
            for event in events:
                writer.write(event.SerializeToString())


def _as_folder(title: str) -> str:
    """A title as the name of one folder, of a length that file systems take."""
    name = re.sub(r"[^\w.,=+()\[\]→· -]+", "-", title)
    if len(name.encode()) > 200:
        name = f"{name[:60]}…{name[-30:]}"
    return name.lstrip(".")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
