"""Bytes and times in words, and back."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_UNITS = ("kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp]?)(i?)b?)", re.IGNORECASE)


def size_text(count: float, digits: int = 3) -> str:
    """`1.25 GB`: bytes by powers of 1000, to some digits."""
    rounded = _rounded(count, digits)
    power = min(len(_UNITS), int(math.log10(rounded)) // 3) if rounded >= 1 else 0
    unit = _UNITS[power - 1] if power else "B"
    return f"{rounded / 1000**power:.12g} {unit}"


def read_size(text: str) -> int:
    """Bytes of `20GB`, `1.5 TB`, `512MiB`, `7B` or 0. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write 20GB, 500MB or 1.5TB")
    number, unit, binary = match.groups()
    if number == text.strip() and float(number):
        raise ValueError(f"{text!r} has no unit; write {number}GB, or {number}B for bytes")
    power = "kmgtp".index(unit.lower()) + 1 if unit else 0
    base: int = 1024 if binary else 1000
    return round(float(number) * float(base**power))


def about(seconds: float) -> str:
    """`about 12 min`: no more digits than an estimate deserves."""
    if seconds < 1:
        return "less than a second"
    if seconds < 55:
        return f"about {_rounded(seconds, 1):g} s"
    if (minutes := seconds / 60) < 90:
        return f"about {max(1, _rounded(minutes, 1 if minutes < 9.5 else 2)):g} min"
    if (hours := minutes / 60) < 47:
        return f"about {_rounded(hours, 2):g} h"
    return f"about {_rounded(hours / 24, 2):g} days"


def duration(seconds: float) -> str:
    """`0:42`, `13:05`, `2:13:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(seconds: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """A time since 1970 as `2026-01-31 09:30` or in another form, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def _rounded(value: float, digits: int) -> float:
    if value <= 0:
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(value)))
