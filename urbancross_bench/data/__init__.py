"""Domains as users have them on disk: reading, checking, packing, and what of them a method may see."""
