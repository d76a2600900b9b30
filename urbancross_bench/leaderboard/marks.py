"""Marks of rows: what a reader should know of the data behind a number."""

from __future__ import annotations

from urbancross_bench.leaderboard.rows import Row
from urbancross_bench.records import weights_lacked


def marks_of(row: Row) -> dict[str, str]:
    """What makes a row's data other than the usual: kind of mark → the mark with its figures."""
    marks, domains = {}, row.run["domains"]
    shared = domains[row.run["scenario"]["target"]]["test_images_also_in_train_or_val"]
    if shared:
        marks["overlapping splits"] = f"overlapping splits ({shared} test images)"
    if row.run["test_images_in_training"]:
        count = row.run["test_images_in_training"]
        where = ", or behind the weights" if row.run.get("target_images_in_weights") else ""
        said = f"{count} test images stand in a training or validation split{where}"
        marks["test images in training"] = said
    if row.run["target_images_in_sources"]:
        count = row.run["target_images_in_sources"]
        marks["target images in sources"] = f"{count} training images of the target are the sources' too"
    marks |= _of_weights(row) | _of_segments(row)
    if drift := row.score["drift"]:
        drifts = [seed.score.content["drift"] for seed in row.seeds]
        most = max((one["mr"] - one["mr_float32"] for one in drifts), key=abs)
        moved = f"mR of {drift['images']} images moved by {'up to ' * (len(drifts) > 1)}{most:+.2f}"
        marks["bfloat16 embeddings"] = f"embedded in {row.score['precision']}, {moved}"
    if calibration := row.score["calibration"]:
        seen = {"single": "each query alone", "batch": "queries in batches", "all": "all queries at once"}
        marks["transductive"] = f"transductive: {seen[calibration['queries']]}"
    for mark in sorted({facts["mark"] for facts in domains.values()} - {""}):
        marks[mark] = f"{', '.join(n for n, facts in domains.items() if facts['mark'] == mark)}: {mark}"
    for name, facts in domains.items():
        if out := facts["excluded"]:
            said = f"{out['images']} images and {out['captions']} captions of {name} excluded by {out['list']}"
            marks["exclusions"] = "; ".join(filter(None, [marks.get("exclusions"), said]))
    return marks


def _of_weights(row: Row) -> dict[str, str]:
    marks: dict[str, str] = {}
    if seen := row.run.get("target_images_in_weights"):
        marks["weights that saw the target"] = f"first weights trained on {seen} images of {row.target}"
    if weights_lacked(row.run):
        marks["weights in part"] = "some of the first weights were allowed to be missing"
    if cut := row.score.get("captions_cut"):
        marks["captions cut"] = f"{cut} test captions are longer than the text tower reads"
    return marks


def _of_segments(row: Row) -> dict[str, str]:
    used, marks = row.run["segments"], {}
    of_scored = used["domains"].get(row.score["domain"]) if used else None
    if of_scored and used["use"]["at_retrieval"]:
        name = row.score["domain"]
        if of_scored["caption_aware"]:
            marks["caption-aware segments"] = f"{name}: segments may have been chosen by the captions"
        if bare := of_scored["images_without"]["test"]:
            marks["images without segments"] = f"{name}: {bare} test images have no segments"
    making = [(name, facts["making"]) for name, facts in used["domains"].items()] if used else []
    for role, what in (("weights", "cut"), ("encoder_weights", "chosen")):
        drawn = [name for name, said in making if (said.get(role) or {}).get("status") == "untrained"]
        if drawn:
            marks[f"segments {what} by an untrained model"] = f"{', '.join(drawn)}: {what} by random weights"
    return marks
