"""First-party metrics."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_metrics() -> list[Registration]:
    """Recall, the field's metric, and what else is read off a ranking."""
    return [
        register(
            "recall",
            "urbancross_metrics.recall:Recall",
            summary="R@1, R@5, R@10 in both directions and their mean mR, in percent.",
        ),
        register(
            "rank",
            "urbancross_metrics.rank:Rank",
            summary="MRR in percent and the mean rank of the first right answer, in both directions.",
        ),
        register(
            "map",
            "urbancross_metrics.average_precision:AveragePrecision",
            needs={"embeddings"},
            summary="mAP@R in both directions, in percent.",
        ),
        register(
            "graded",
            "urbancross_metrics.graded:Graded",
            needs={"embeddings", "text_id"},
            summary="nDCG@5 and @10 with graded relevance by caption equality, in percent.",
        ),
        register(
            "scenes",
            "urbancross_metrics.scenes:Scenes",
            needs={"embeddings", "image_class"},
            summary="Scene-level retrieval: the share of the first 1, 5, 10 of the query's class, in percent.",
        ),
    ]
