"""The graph of stages: planned, keyed by what may change their results, carried out once, stored."""
