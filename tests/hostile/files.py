"""Bad files of data, tables of weights and model folders: what each holds, and a word of what is said of it."""

from __future__ import annotations

import json
import os

from tests.hostile.rows import GOOD

LIST = b"[" + GOOD + b"]"

WHOLE: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.jsonl", b"", "no row"),
    "an empty list": ("a.json", b"[]", "no row"),
    "a mark alone": ("a.jsonl", b"\xef\xbb\xbf", "no row"),
    "line breaks alone": ("a.jsonl", b"\r\n\n\r\n  \n", "no row"),
    "UTF-16": ("a.jsonl", GOOD.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 in JSON": ("a.json", LIST.decode().encode("utf-16"), "UTF-16"),
    "UTF-16, the other way round": ("a.jsonl", b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), "UTF-16"),
    "no JSON": ("a.json", b"hello", "no list of rows"),
    "nothing in JSON": ("a.json", b"", "no list of rows"),
    "a number in JSON": ("a.json", b"3", "no list of rows"),
    "an object without a list": ("a.json", b'{"a": {"b": [1]}}', "exactly one list"),
    "an object with two lists": ("a.json", b'{"a": [{}], "b": [{}]}', "'a', 'b'"),
    "a list that is cut": ("a.json", LIST[:-1], "a.json:1"),
    "a list cut inside a row": ("a.json", LIST[:-20], "a.json:1"),
    "a list cut in the third line": ("a.json", b"[" + GOOD + b",\n" + GOOD + b",\n" + GOOD[:9], "a.json:3"),
    "a list without commas": ("a.json", b"[" + GOOD + b" " + GOOD + b"]", "a.json:1"),
    "a list with a comma too many": ("a.json", b"[" + GOOD + b",]", "a.json:1"),
    "something behind a list": ("a.json", LIST + b" x", "a.json:1"),
    "two lists": ("a.json", LIST + LIST, "a.json:1"),
    "a list of NULs": ("a.json", b"[\0\0\0]", "a.json:1"),
    "100,000 brackets": ("a.json", b"[" * 100_000, "nested too deeply"),
    "100,000 braces": ("a.json", b'{"a":' * 100_000, "nested too deeply"),
    "an object cut after its list": ("a.json", b'{"rows": ' + LIST, "a.json:1"),
    "no Parquet": ("a.parquet", b"hello", "Parquet"),
    "nothing in Parquet": ("a.parquet", b"", "Parquet"),
    "Parquet without an end": ("a.parquet", b"PAR1" + b"\0" * 100, "Parquet"),
    "Parquet with a footer too long": ("a.parquet", b"PAR1\0\0\0\0\xff\xff\xff\x7fPAR1", "Parquet"),
    "Parquet with a footer of noise": ("a.parquet", b"PAR1" + b"\x15\xff" * 50 + b"\x64\0\0\0PAR1", "cannot be read"),
    "JSON in Parquet": ("a.parquet", GOOD, "Parquet"),
    "another kind of file": ("a.csv", b"role,content\nuser,hi", "not a kind of file"),
    "a compressed file": ("a.jsonl.gz", b"\x1f\x8b\x08\0", "not a kind of file"),
    "a pickle": ("a.pkl", b"\x80\x04cos\nsystem\n(S'id'\ntR.", "not a kind of file"),
    "a name without an ending": ("a", GOOD, "not a kind of file"),
    "a folder without data": ("folder/readme.md", b"hello", "no data"),
    "a hidden file alone": ("folder/.a.jsonl", GOOD, "no data"),
    "a saved data set that is none": ("folder/state.json", b"{}", "no data"),
    "a name with a line break": ("a\nb.jsonl", GOOD, "rename it"),
    "a name that steers terminals": ("a\x1b[2J.jsonl", GOOD, "rename it"),
    "a name that is no UTF-8": (os.fsdecode(b"a\xff.jsonl"), GOOD, "rename it"),
}
"""Name -> (file, content, word): files that are at fault as a whole. A name with a folder is read as the folder."""

ROW_BY_ROW: dict[str, tuple[str, bytes, list[str | None]]] = {
    "CRLF": ("a.jsonl", GOOD + b"\r\n\r\n" + GOOD + b"\r\n", [None, None]),
    "a mark at the start": ("a.jsonl", b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD, [None, None]),
    "a mark at the start of JSON": ("a.json", b"\xef\xbb\xbf" + LIST, [None]),
    "carriage returns alone": ("a.jsonl", GOOD + b"\r" + GOOD, ["malformed_json"]),
    "no line break at the end": ("a.jsonl", GOOD + b"\n" + GOOD, [None, None]),
    "a cut last line": ("a.jsonl", GOOD + b"\n" + GOOD[:30], [None, "malformed_json"]),
    "JSON lines under another name": ("a.json", GOOD + b"\n{\n" + GOOD, [None, "malformed_json", None]),
    "a list in JSON lines": ("a.jsonl", LIST + b"\n" + GOOD, ["unknown_format", None]),
    "a printed list in JSON lines": ("a.jsonl", b"[\n" + GOOD + b"\n]", ["malformed_json", None, "malformed_json"]),
    "NaN in one row of a list": ("a.json", b"[" + GOOD + b', {"a": NaN}]', [None, "malformed_json"]),
    "bytes in one row of a list": ("a.json", b'[{"a": "\xff"}, ' + GOOD + b"]", ["malformed_json", None]),
    "a list within the list": ("a.json", b"[" + LIST + b", " + GOOD + b"]", ["unknown_format", None]),
    "a single bad row": ("a.json", b'{"messages": [{"role": "user", "content": "x"}]}', ["no_assistant"]),
    "a row that is a megabyte of spaces": ("a.jsonl", b" " * 1_000_000 + GOOD + b"\n" + GOOD, [None, None]),
    "a line of 1 MB of text": ("a.jsonl", GOOD + b"\n" + GOOD.replace(b"2+2", b"word " * 200_000), [None, "too_long"]),
    "a line of 10 MB": (
        "a.jsonl", GOOD[:-1] + b', "log": "' + b"word " * 2_000_000 + b'"}\n{\n' + GOOD, [None, "malformed_json", None],
    ),
    "1000 bad rows": ("a.jsonl", b"{\n" * 1000 + GOOD, ["malformed_json"] * 1000 + [None]),
}  # fmt: skip
"""Name -> (file, content, each row's reason or None): files that are read, their good rows kept."""

TABLES: dict[str, tuple[bytes, str]] = {
    name: (content if isinstance(content, bytes) else json.dumps(content).encode(), says)
    for name, (content, says) in {
        "an empty file": (b"", "not valid JSON"),
        "cut": (b'{"regex": {"a"', "not valid JSON"),
        "a list": ([1], "JSON object"),
        "null": (None, "JSON object"),
        "an empty object": ({}, "no pattern"),
        "no UTF-8": (b"\xff\xfe{}", "cannot be read"),
        "10,000 brackets": (b"[" * 10_000, "cannot be read"),
        "a number of 5000 digits": (b'{"regex": {"a": ' + b"9" * 5000 + b"}}", "cannot be read"),
        "an unknown field": ({"keyword": {"a": [1, 1]}}, '"keywords"'),
        "a field of 1 MB": ({"k" * 1_000_000: 1, "regex": {"a": 1}}, "unknown key"),
        "a key twice": (b'{"regex": {"a": 1, "a": 2}}', "there twice"),
        "100,000 keys, the last one twice": (
            b"{" + b"".join(b'"%d":1,' % key for key in range(100_000)) + b'"x":1,"x":1}',
            "there twice",
        ),
        "a surrogate": (b'{"regex": {"\\ud800": 1}}', "surrogate"),
        "a list of patterns": ({"regex": ["a"]}, "regex takes an object"),
        "a text for patterns": ({"keywords": "Action:"}, "keywords takes an object"),
        "an empty pattern": ({"regex": {"": 1}}, "empty pattern"),
        "a weight of text": ({"regex": {"a": "2"}}, "takes one number"),
        "a weight of null": ({"regex": {"a": None}}, "takes one number"),
        "a weight of true": ({"regex": {"a": True}}, "takes one number"),
        "a negative weight": ({"regex": {"a": -1}}, "at least 0"),
        "a weight that is NaN": (b'{"regex": {"a": NaN}}', "finite"),
        "an infinite weight": (b'{"regex": {"a": 1e999}}', "finite"),
        "a weight too large": ({"regex": {"a": 1e300}}, "too large"),
        "weights that multiply": ({"regex": {"a": 1e30}, "keywords": {"b": [1e30, 1]}}, "too large"),
        "one weight of a keyword": ({"keywords": {"a": [1]}}, "two numbers"),
        "three weights of a keyword": ({"keywords": {"a": [1, 2, 3]}}, "two numbers"),
        "no expression": ({"regex": {"(": 1}}, "not a regular expression"),
        "a bad repeat": ({"regex": {"*": 1}}, "not a regular expression"),
        "a bad range": ({"regex": {"[z-a]": 1}}, "not a regular expression"),
        "a bad group": ({"regex": {"(?P<1>a)": 1}}, "not a regular expression"),
        "a repeat too large": ({"regex": {"a{99999999999}": 1}}, "not a regular expression"),
        "an unknown escape": ({"regex": {"\\Q": 1}}, "not a regular expression"),
        "10,000 groups": ({"regex": {"(" * 10_000 + ")" * 10_000: 1}}, "not a regular expression"),
        "a phrase of no text": ({"query_contains": [{"text": [3], "weight": 1}]}, "phrases"),
        "a phrase without a weight": ({"query_contains": [{"text": ["a"]}]}, "list of"),
        "an object of phrases": ({"query_contains": {"a": 1}}, "list of"),
        "a number for a description": ({"description": 1, "regex": {"a": 1}}, "description"),
    }.items()
}

SLOW_PATTERNS = [
    "(a|aa)+$",
    "(a+)+$",
    "(a*)*b",
    "(a|a)*$",
    "([a-z]+)*=",
    "(.*a){12}$",
    "(?:(?:a?){30}){30}b",
    "^(a+)+\\1$",
]

MODELS: dict[str, tuple[str, bytes | None]] = {
    "a tokenizer that is cut": ("tokenizer.json", b'{"version": "1.0", "trunc'),
    "a tokenizer that is no tokenizer": ("tokenizer.json", b'{"model": {"type": "Nope"}}'),
    "a tokenizer that is a list": ("tokenizer.json", b"[]"),
    "an empty tokenizer": ("tokenizer.json", b""),
    "a tokenizer of noise": ("tokenizer.json", bytes(range(256)) * 40),
    "no tokenizer": ("tokenizer.json", None),
    "a tokenizer's settings cut": ("tokenizer_config.json", b'{"tokenizer_cl'),
    "a tokenizer's settings as a list": ("tokenizer_config.json", b"[1]"),
    "a config that is cut": ("config.json", b'{"model_type": "lla'),
    "a config as a list": ("config.json", b"[1]"),
    "a longest context of text": ("config.json", b'{"model_type": "llama", "max_position_embeddings": "many"}'),
    "a template that is no text": ("chat_template.jinja", b"\xff\xfe\x00"),
}
"""Name -> (file of the model's folder, its content or None where it is missing)."""

ODD_MODELS: dict[str, tuple[str, bytes]] = {
    "stop ids of all kinds": (
        "generation_config.json",
        b'{"eos_token_id": ["x", -1, 1000000000, null, 2.5, true, [], 2]}',
    ),
    "a stop id of text": ("generation_config.json", b'{"eos_token_id": "<|im_end|>"}'),
    "generation settings that are cut": ("generation_config.json", b'{"eos_tok'),
    "a config of an unknown model": ("config.json", b'{"model_type": "nope"}'),
    "a longest context below 0": ("config.json", b'{"model_type": "llama", "max_position_embeddings": -5}'),
}
"""Name -> (file of the model's folder, its content): `check` needs none of these to be right."""
