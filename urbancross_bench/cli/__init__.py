"""The command line: one small file a verb, nothing heavy at import."""
