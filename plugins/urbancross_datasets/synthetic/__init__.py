"""The embedded dataset: procedurally drawn satellite-like tiles of three fictional countries."""
