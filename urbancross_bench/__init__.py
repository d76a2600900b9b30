"""A benchmark harness for cross-domain remote-sensing image-text retrieval."""

__version__ = "0.1.0"
