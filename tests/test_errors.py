"""Errors that are told again elsewhere, with words before them or by another process, and their words."""

from __future__ import annotations

import pickle

import pytest

from urbancross_bench import errors
from urbancross_bench.errors import OptionError, UrbanCrossError, cut, some

OWN = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, UrbanCrossError)]


@pytest.mark.parametrize("kind", OWN)
def test_any_error_takes_words_before_it_and_passes_between_processes(kind: type[UrbanCrossError]) -> None:
    error = OptionError("images", "too few") if kind is OptionError else kind("too few")
    for told, message in ((error.after("domain 'a': "), "domain 'a': too few"), (error, "too few")):
        for again in (told, pickle.loads(pickle.dumps(told))):
            assert (type(again), str(again), vars(again)) == (kind, message, vars(error))


def test_long_texts_and_lists_are_cut_where_they_say() -> None:
    assert (cut("four", 4), cut("fives", 4)) == ("four", "fiv…")
    assert (some(["a", "b"], 2), some(["a", "b", "c", "d"], 2, "; ")) == ("a, b", "a; b; and 2 more")
