"""Errors that are told again elsewhere: with words before them, or by another process."""

from __future__ import annotations

import pickle

import pytest

from urbancross_bench import errors
from urbancross_bench.errors import OptionError, UrbanCrossError

OWN = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, UrbanCrossError)]


@pytest.mark.parametrize("kind", OWN)
def test_any_error_takes_words_before_it_and_passes_between_processes(kind: type[UrbanCrossError]) -> None:
    error = OptionError("images", "too few") if kind is OptionError else kind("too few")
    for told, message in ((error.after("domain 'a': "), "domain 'a': too few"), (error, "too few")):
        for again in (told, pickle.loads(pickle.dumps(told))):
            assert (type(again), str(again), vars(again)) == (kind, message, vars(error))
