"""Tables from outside: a user's own, ms-swift's, a plugin's, and the faulty ones."""

from __future__ import annotations

import importlib
import json
import sys
import time

import pytest

from agentsft.errors import UserError
from agentsft.weigh import strategy as strategy_module
from agentsft.weigh.loss_scale import list_strategies, parse_loss_scale
from agentsft.weigh.table import strategy_from_table

RESPONSE = "<a>x</a> Say: hi <b>y</b>"


def weighed(spec: str, response: str = RESPONSE, query: str | None = None) -> list[tuple[str, float]]:
    return [(response[s.start : s.end], s.weight) for s in parse_loss_scale(spec).spans(response, query)]


@pytest.fixture
def write(tmp_path):
    def write_table(table: object, name: str = "my.json") -> str:
        path = tmp_path / name
        path.write_text(table if isinstance(table, str) else json.dumps(table), encoding="utf-8")
        return str(path)

    return write_table


def test_a_table_of_ones_own_combines_with_names_and_bases(write):
    path = write(
        {
            "description": "Mine.",
            "keywords": {"Say:": [2, 3]},
            "regex": {"<b>.+?</b>": 0.5},
            "regex_at_start": {"<a>": 0},
            "query_contains": [{"text": ["now", "at once"], "weight": 4}],
        }
    )
    expected = [("<a>", 0), ("x</a> ", 1), ("Say:", 2), (" hi ", 3), ("<b>y</b>", 1.5)]
    assert weighed(path) == expected
    assert weighed(path, query="Do it at once") == [(RESPONSE, 4)]
    assert weighed(f"last_round+{path}+hermes") == expected
    assert parse_loss_scale(f"last_round+{path}+hermes").base == "last_round"
    assert parse_loss_scale(path).strategies[0].rows == [
        ("keyword", "Say:", (2, 3)),
        ("regex at start", "<a>", (0,)),
        ("regex", "<b>.+?</b>", (0.5,)),
        ("query", "now", (4,)),
        ("query", "at once", (4,)),
    ]


def test_a_path_may_hold_a_plus(write):
    assert weighed(write({"regex": {"<a>": 0}}, "mine+yours.json"))[0] == ("<a>", 0)


def test_ms_swifts_tables_are_read_as_they_are(write):
    assert weighed(write({"Say:": [2.0, 3.0]})) == [("<a>x</a> ", 1), ("Say:", 2), (" hi <b>y</b>", 3)]
    assert weighed(write({"^<a>": [0.0], "<.>": [2.0]})) == [
        ("<a>", 0),
        ("x</a> Say: hi ", 1),
        ("<b>", 2),
        ("y</b>", 1),
    ]
    nested = write({"response": {"Say:": [2.0, 3.0]}, "query": {"What is": 4.0, "Who": [5.0]}})
    assert weighed(nested)[1] == ("Say:", 2)
    assert weighed(nested, query="Who is it?") == [(RESPONSE, 5)]
    assert weighed(nested, query="What is it?") == [(RESPONSE, 4)]


def test_a_query_alone_makes_a_table(write):
    path = write({"query_contains": [{"text": "Who", "weight": 0}]})
    assert (weighed(path, query="Who?"), weighed(path, query="Where?")) == ([(RESPONSE, 0)], [(RESPONSE, 1)])


FAULTS = [
    ('{"keywords": ', "not valid JSON"),
    ("[1]", "a table of weights is a JSON object, not a list"),
    ("{}", "no pattern in it"),
    ('{"description": "none"}', "no pattern in it"),
    ('{"description": 3, "regex": {"a": 1}}', "description takes one line of text"),
    ('{"keyword": {"a": [1, 1]}}', "unknown key 'keyword'.* Did you mean \"keywords\""),
    ('{"keywords": {"a": [1, 1]}, "Action:": [2, 2]}', "unknown key 'Action:'"),
    ('{"keywords": [["a", 1, 1]]}', "keywords takes an object"),
    ('{"keywords": {"": [1, 1]}}', "keywords has an empty pattern"),
    ('{"keywords": {"a": [1, 1], "a": [2, 2]}}', "key 'a' is there twice"),
    ('{"keywords": {"a": 2}}', r"keywords: 'a' takes two numbers, .* not 2\."),
    ('{"keywords": {"a": [1, 2, 3]}}', r"keywords: 'a' takes two numbers, .* not \[1, 2, 3\]"),
    ('{"keywords": {"a": [1, -1]}}', "'a' takes two numbers, .* finite and at least 0"),
    ('{"keywords": {"a": [1, NaN]}}', "'a' .* finite"),
    ('{"keywords": {"a": [1, true]}}', "'a' .* not \\[1, True\\]"),
    ('{"regex": {"a": Infinity}}', "regex: 'a' takes one number, each finite"),
    ('{"regex": {"a": 1' + "0" * 400 + "}}", "regex: 'a' takes one number, each finite"),
    ('{"regex": {"a": 1' + "0" * 5000 + "}}", "cannot be read"),
    ('{"regex": {"a": "2"}}', "regex: 'a' takes one number, .* not '2'"),
    ('{"regex": {"a": [1, 1]}}', "regex: 'a' takes one number"),
    ('{"regex": {"(a": 1}}', r"regex: '\(a' is not a regular expression that Python knows"),
    ('{"regex_at_start": {"*": 1}}', "regex_at_start: .*nothing to repeat"),
    ('{"regex": {"a": 1e300}, "keywords": {"b": [1, 1]}}', "product of its weights is too large"),
    ('{"query_contains": {"a": 1}}', "query_contains takes a list of"),
    ('{"query_contains": [{"text": ["a"]}]}', "query_contains takes a list of .* not {'text'"),
    ('{"query_contains": [{"text": [""], "weight": 1}]}', "text takes a list of phrases"),
    ('{"query_contains": [{"text": ["a"], "weight": -1}]}', "weight takes one number"),
    ('{"a": [1, 1], "b": [1, 2, 3]}', r"'b' takes \[weight, weight after it\] \(a keyword\) or \[weight\]"),
    ('{"a": [1, 1], "b": 1}', r"'b' takes .* not 1\."),
    ('{"response": [1], "query": {}}', "response and query each take an object"),
    ("\ufeff[]", "not a list"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_a_faulty_table_is_an_error_of_one_line_that_names_the_file(write, text, message):
    path = write(text)
    with pytest.raises(UserError, match=message) as error:
        parse_loss_scale(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "my.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match="cannot be read"):
        parse_loss_scale(str(path))
    folder = tmp_path / "folder.json"
    folder.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        parse_loss_scale(str(folder))


def test_a_pattern_that_backtracks_without_end_is_stopped(write, monkeypatch):
    monkeypatch.setattr(strategy_module, "PATTERN_SECONDS", 0.2)
    for field in ("regex", "regex_at_start"):
        path = write({field: {"(a|aa)+$": 2}})
        start = time.monotonic()
        with pytest.raises(UserError, match=r"my\.json: .*'\(a\|aa\)\+\$' searched one response for more than 0\.2 s"):
            weighed(path, "a" * 60 + "b")
        assert time.monotonic() - start < 5


def test_openings_that_are_never_closed_take_linear_time():
    response = "<tool_call>" * 100_000
    start = time.process_time()
    assert weighed("hermes+ignore_empty_think", response) == [(response, 1)]
    assert time.process_time() - start < 3


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package for the length of a test: `install("pack", "name = module:attribute", module="source")`."""
    monkeypatch.syspath_prepend(tmp_path)

    def install_package(package: str, entry_points: str, **modules: str) -> None:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
            sys.modules.pop(name, None)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[agentsft.loss_scales]\n{entry_points}\n", encoding="utf-8")
        importlib.invalidate_caches()

    return install_package


def test_an_installed_package_adds_strategies(install, write):
    path = write({"regex": {"<b>.+?</b>": 3}}, "b.json")
    source = f"table = {{'keywords': {{'Say:': [2, 2]}}, 'description': 'Says.'}}\npath = {path!r}"
    install("sayings", "say = sayings_tables:table\nbold = sayings_tables:path", sayings_tables=source)
    assert weighed("bold+say") == [("<a>x</a> ", 1), ("Say: hi ", 2), ("<b>y</b>", 6)]
    listed = {s.name: (s.origin, s.description, s.rows) for s in list_strategies()}
    assert listed["say"] == ("plugin sayings", "Says.", [("keyword", "Say:", (2, 2))])
    assert listed["bold"] == ("plugin sayings", "", [("regex", "<b>.+?</b>", (3,))])
    assert listed["react"][0] == "built in"
    with pytest.raises(UserError, match='Did you mean "bold"'):
        parse_loss_scale("bolt")


def test_a_faulty_plugin_is_an_error_that_names_the_package_and_harms_no_other_name(install):
    source = "table = {'keywords': {'a': [1]}}\nnumber = 3\nraise_ = 1"
    install(
        "faulty", "one = faulty_tables:table\ntwo = faulty_tables:number\nthree = faulty_tables:x", faulty_tables=source
    )
    for name, message in (
        ("one", "strategy 'one' of the package faulty: keywords: 'a' takes two numbers"),
        ("two", "strategy 'two' of the package faulty: a table of weights is a JSON object, not a int"),
        ("three", "strategy 'three' of the package faulty cannot be loaded \\(AttributeError: "),
    ):
        with pytest.raises(UserError, match=message) as error:
            parse_loss_scale(name)
        assert "\n" not in str(error.value)
    assert weighed("react") == [(RESPONSE, 1)]
    with pytest.raises(UserError, match="of the package faulty"):
        list_strategies()


def test_a_name_that_two_packages_bring_is_an_error(install):
    install("rival", "react = rival_tables:table", rival_tables="table = {'regex': {'a': 0}}")
    with pytest.raises(UserError, match="agentsft and rival both bring 'react'; uninstall one of them"):
        parse_loss_scale("react")
    assert weighed("hermes") == [(RESPONSE, 1)]


def test_a_table_from_outside_weighs_like_the_same_built_in_table():
    for built_in in list_strategies():
        table = {
            "keywords": {keyword: [own, after] for keyword, own, after in built_in.keywords},
            "regex": {r.text: r.weight for r in built_in.regexes if not r.at_start},
            "regex_at_start": {r.text: r.weight for r in built_in.regexes if r.at_start},
            "query_contains": [{"text": phrase, "weight": weight} for phrase, weight in built_in.queries],
        }
        outside = strategy_from_table(table, built_in.name, "file x.json", "x.json")
        assert outside.rows == built_in.rows
        for response in (
            "</think>\n\nAction: a",
            "x <think> \u3000</think>\u00a0b",
            "<think>\n<tool_call>\na</tool_call>",
        ):
            assert outside.pieces(response, None) == built_in.pieces(response, None)
