"""Query by query: ranks by all orders of tied items, who is farthest, and files that names cannot harm."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import operator
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from compared_records import methods, write_run

from urbancross_bench.leaderboard.comparing import Comparison, table_of_queries
from urbancross_bench.leaderboard.queries import write_csv
from urbancross_bench.leaderboard.scatter import draw


def first_place(greater: int, tied: int, positives: int) -> list[int]:
    """The place of the first right answer in every order of the tied items."""
    items = [False] * tied + [True] * positives
    return [greater + 1 + order.index(True) for order in itertools.permutations(items)]


@pytest.mark.parametrize(("ties", "oracle"), [("expected", np.mean), ("optimistic", min), ("pessimistic", max)])
def test_ranks_are_those_of_all_orders_of_tied_items(
    tmp_path: Path, ties: str, oracle: Callable[[list[int]], float]
) -> None:
    generator = np.random.default_rng(5)
    counts: dict[tuple[str, int], dict[str, dict[str, list[int]]]] = {}
    for method, seed in itertools.product(("dann", "coral"), range(3)):
        counts[method, seed] = {
            way: {
                "greater": generator.integers(0, 4, 12).tolist(),
                "tied": generator.integers(0, 4, 12).tolist(),
                "tied_positives": generator.integers(1, 4, 12).tolist(),
            }
            for way in ("i2t", "t2i")
        }
        write_run(tmp_path, method, seed, [1.0] * 12, counts=counts[method, seed], score={"ties": ties})
    [pair] = methods(tmp_path).pairs
    for way in ("i2t", "t2i"):
        ranks = {
            method: np.mean(
                [
                    [
                        oracle(first_place(*query))
                        for query in zip(*counts[method, seed][way].values(), strict=True)
                    ]
                    for seed in range(3)
                ],
                axis=0,
            )
            for method in ("dann", "coral")
        }
        found = pair.queries[way]
        np.testing.assert_allclose(found.a, ranks["dann"])
        np.testing.assert_allclose(found.b, ranks["coral"])
        gain = np.round(ranks["coral"] - ranks["dann"], 9)
        assert found.counts == {"won": (gain > 0).sum(), "tied": (gain == 0).sum(), "lost": (gain < 0).sum()}
        assert 0 < found.counts["won"] < 12


def test_equal_ranks_in_another_order_of_seeds_are_tied(tmp_path: Path) -> None:
    """Thirds, as `expected` gives them, do not have the same mean in every order, to the bit."""
    tied = [0, 1, 4]  # with two right answers among them the ranks are 1 + tied / 3
    thirds = {
        functools.reduce(operator.add, [(t + 3) / 3 for t in order]) for order in itertools.permutations(tied)
    }
    means = {total / 3 for total in thirds}  # one after the other: `sum` does better since Python 3.12
    assert len(means) > 1
    for order in itertools.permutations(tied):
        place = tmp_path / "-".join(map(str, order))
        for seed in range(3):
            for method, numbers in (("dann", tied), ("coral", order)):
                counts = {"i2t": {"tied": [numbers[seed]] * 4, "tied_positives": [2] * 4}}
                write_run(place, method, seed, [1.0] * 4, counts=counts)
        [pair] = methods(place).pairs
        assert pair.queries["i2t"].counts == {"won": 0, "tied": 4, "lost": 0}


EVIL = ["=HYPERLINK(1)", "</svg><script>", "\u202egpj.txt", "a\nb\x1b[31m", "@x&amp;", "\uff1d\ud800\uffff"]


def evil(place: Path) -> Comparison:
    """Names that would do harm, ranks of A that double, and ranks of B that are all 8."""
    counts = {"i2t": {"greater": [0, 1, 3, 7, 15, 31]}}
    constant = {"i2t": {"greater": [7] * 6}}
    for method, ranks in (('<b>"x"', counts), ("=1+1", constant)):
        write_run(place, method, 0, [1.0] * 6, counts=ranks, names=EVIL, target="<d>&\uffff")
    return methods(place, '<b>"x"', "=1+1")


def test_every_query_stands_in_the_csv_and_no_cell_runs(tmp_path: Path) -> None:
    out = io.StringIO()
    assert write_csv(evil(tmp_path).pairs, out) == 12
    lines = list(csv.DictReader(io.StringIO(out.getvalue().encode("utf-8").decode())))
    forth = [line for line in lines if line["direction"] == "i2t"]
    assert [float(line["rank A"]) for line in forth] == [1, 2, 4, 8, 16, 32]
    assert {float(line["rank B"]) for line in forth} == {8}
    assert [line["A"] for line in forth] == ["won"] * 3 + ["tied"] + ["lost"] * 2
    assert [line["name"] for line in forth] == [
        "'=HYPERLINK(1)",
        "</svg><script>",
        "[U+202E]gpj.txt",
        "a b[U+001B][31m",
        "'@x&amp;",
        "'\uff1d[U+D800]\uffff",
    ]
    assert [line["name"] for line in lines if line["direction"] == "t2i"][1] == "</svg><script>, caption 1"
    assert not any(cell[0] in "=+-@\uff1d" for line in lines for cell in line.values() if cell)


def test_the_farthest_are_those_of_the_largest_ratio(tmp_path: Path) -> None:
    comparison = evil(tmp_path)
    won, lost = comparison.farthest(2)
    assert [(one.number, one.a, one.b, one.outcome) for one in won] == [(0, 1, 8, "won"), (1, 2, 8, "won")]
    assert [(one.number, one.a, one.b, one.outcome) for one in lost] == [(5, 32, 8, "lost"), (4, 16, 8, "lost")]
    assert [len(found) for found in comparison.farthest(99)] == [3, 2]
    assert comparison.farthest(0) == ([], [])
    shown = table_of_queries(comparison, won, "won")
    assert [row[shown.columns.index("query")] for row in shown.rows] == [EVIL[0], EVIL[1]]


def test_a_ratio_counts_not_a_difference(tmp_path: Path) -> None:
    for method, ranks in (("dann", [49, 0, 2]), ("coral", [99, 2, 2])):
        write_run(tmp_path, method, 0, [1.0] * 3, counts={"t2i": {"greater": ranks}})
    won, lost = methods(tmp_path).farthest(10)
    assert ([(one.direction, one.a, one.b) for one in won], lost) == ([("t2i", 1, 3), ("t2i", 50, 100)], [])
    assert [one.name for one in won] == ["image 1, caption 1", "image 0, caption 1"]


def test_the_drawing_is_sound_and_says_itself_in_words(tmp_path: Path) -> None:
    root = ElementTree.fromstring(draw(evil(tmp_path)).encode("utf-8"))
    space = {"s": "http://www.w3.org/2000/svg"}
    assert root.get("role") == "img"
    labels = {root.find(f"s:{name}", space).get("id") for name in ("title", "desc")}  # type: ignore[union-attr]
    assert labels == set(str(root.get("aria-labelledby")).split())
    assert root.findtext("s:title", namespaces=space) == 'Ranks under A, <b>"x", against B, =1+1'
    assert "a → <d>&\ufffd, images to texts: A won 3, tied 1, lost 2." in str(
        root.findtext("s:desc", namespaces=space)
    )
    assert root.findall(".//s:script", space) == []
    frame = root.findall("s:rect", space)[1]
    left, top, side = (float(str(frame.get(name))) for name in ("x", "y", "width"))
    circles = [c for c in root.findall(".//s:circle", space) if float(str(c.get("cx"))) <= left + side]
    spots = sorted((float(str(c.get("cx"))), float(str(c.get("cy")))) for c in circles)
    # Ranks that double are evenly spaced from 1 to 32; 8 is the third of five steps up.
    for number, (x, y) in enumerate(spots):
        assert x == pytest.approx(left + side * number / 5, abs=2.1)
        assert y == pytest.approx(top + side * 2 / 5, abs=2.1)
