"""Arrays in, numbers out: ranking, statistics and floors. Knows no dataset, model or file."""

from urbancross_bench.evaluation.ranking import Direction, DirectionRanking, Ranking, evaluate_retrieval

__all__ = ["Direction", "DirectionRanking", "Ranking", "evaluate_retrieval"]
