"""Leaderboards: views over records, rendered to files. Nothing here imports torch."""
