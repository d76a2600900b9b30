"""`name/member[option=value]` is read and written without loss."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urbancross_bench.errors import UsageError
from urbancross_bench.references import Reference


@pytest.mark.parametrize(
    ("text", "name", "member", "options"),
    [
        ("urbancross", "urbancross", None, {}),
        ("synthetic/nordia", "synthetic", "nordia", {}),
        ("dann[weight=0.1,schedule=ramp]", "dann", None, {"weight": 0.1, "schedule": "ramp"}),
        ("a[on=true, n=3,none=null]", "a", None, {"on": True, "n": 3, "none": None}),
        ('karpathy[file="a,b].json"]', "karpathy", None, {"file": "a,b].json"}),
        ('a[list=["b.[01]*", \'c]\', "\\"]"],x=1]', "a", None, {"list": ["b.[01]*", "c]", '"]'], "x": 1}),
        ("a[list=[don't, stop],b=[it's b]]", "a", None, {"list": ["don't", "stop"], "b": ["it's b"]}),
        ("a[list=['it''s']]", "a", None, {"list": ["it's"]}),
        ("a[list=[1, 2],x=/tmp/y.json]", "a", None, {"list": [1, 2], "x": "/tmp/y.json"}),
        ("a[v={b: 1, a: 2},w=3]", "a", None, {"v": {"b": 1, "a": 2}, "w": 3}),
        (
            "a[v={\"b,}\": [1, 2], c: {d: it's, e: 'f}'}}, w={}]",
            "a",
            None,
            {"v": {"b,}": [1, 2], "c": {"d": "it's", "e": "f}"}}, "w": {}},
        ),
        ("a[v=/data/{split}/a.json,w=it's]", "a", None, {"v": "/data/{split}/a.json", "w": "it's"}),
        (
            "a[v=[a:'b, c],w={\"x\":[1, 2], y: 'd, e'}]",
            "a",
            None,
            {"v": ["a:'b", "c"], "w": {"x": [1, 2], "y": "d, e"}},
        ),
        ('a[v={"x":"}, z"},w=1]', "a", None, {"v": {"x": "}, z"}, "w": 1}),
        ("a[v=[[1, 2], {b: [3]}]]", "a", None, {"v": [[1, 2], {"b": [3]}]}),
        ("a[]", "a", None, {}),
    ],
)
def test_parse(text: str, name: str, member: str | None, options: dict[str, object]) -> None:
    assert Reference.parse(text) == Reference(name, member, options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a[b",
        "a[b]",
        "a[=1]",
        "a b",
        "a/b/c",
        "a[x=1,x=2]",
        "a[x=1 y=2]]",
        "a[x={]",
        "a[x='b]",
        "a[x=[1]",
        "a[x=2024-13-45]",
    ],
)
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"option|reference|YAML"):
        Reference.parse(text)


scalars = st.one_of(
    st.booleans(), st.integers(), st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)


words = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


@example({"x": ":", "y": "2024-13-45"})  # plain as they are, YAML reads neither
@given(st.dictionaries(words, values, max_size=4))
def test_a_reference_survives_its_own_text(options: dict[str, object]) -> None:
    reference = Reference("name", "member", options)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("good.csv", "write csv[file=good.csv]"),
        ("own/my good.CSV", 'write csv[file="own/my good.CSV"]'),
        ("good.tsv", "write csv[file=good.tsv,separator=tab]"),
        ("/data/good.json", "write karpathy[file=/data/good.json] or json[file=/data/good.json]"),
        ("good.jsonl", "write json[file=good.jsonl]"),
        ("good.txt", "write name[option=value,other=value]"),
    ],
)
def test_a_file_in_place_of_a_reference_is_answered_with_its_readers(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Reference.parse(text)
    assert str(refused.value) == f"{text!r} is not a plugin reference; {said}"


def test_a_value_that_yaml_takes_for_a_sign_of_its_own_is_to_be_quoted() -> None:
    with pytest.raises(UsageError, match=r'put it in quotes: targets="\*"$') as caught:
        Reference.parse("lora[targets=*]")
    assert "\n" not in str(caught.value)
    assert Reference.parse('lora[targets="*"]').options == {"targets": "*"}
