"""Files, folders, globs and hub data sets."""

from __future__ import annotations

import gc
import json
import os
import sys
import tracemalloc

import pytest

from agentsft.data.read import read_rows
from agentsft.errors import UserError


def write(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"messages": [{"role": "assistant", "content": text}]} for text in texts]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def found(*paths, **settings):
    rows = list(read_rows([str(path) for path in paths], **settings))
    assert [row.index for row in rows] == list(range(len(rows)))
    return [(os.path.basename(row.source), row.conversation.messages[0].content) for row in rows]


def test_rows_are_numbered_over_files_in_order(tmp_path):
    write(tmp_path / "b.jsonl", "1", "2")
    write(tmp_path / "a.json", "3")
    write(tmp_path / "sub/deep/c.ndjson", "4")
    write(tmp_path / ".hidden/d.jsonl", "no")
    write(tmp_path / "sub/.e.jsonl", "no")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("no")
    rows = [("a.json#0", "3"), ("b.jsonl:1", "1"), ("b.jsonl:2", "2"), ("c.ndjson:1", "4")]
    assert found(tmp_path) == rows
    assert found(tmp_path / "*") == rows
    assert found(tmp_path / "**/*") == rows
    assert found(tmp_path / "*.jsonl", tmp_path / "sub") == rows[1:]
    assert found(tmp_path / "b.jsonl", tmp_path / "a.json") == [*rows[1:3], rows[0]]


def test_a_file_whose_name_has_glob_signs_is_that_file(tmp_path):
    write(tmp_path / "a[1].jsonl", "x")
    assert found(tmp_path / "a[1].jsonl") == [("a[1].jsonl:1", "x")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "no such file"),
        ("missing/", None, "no such file"),
        ("*.jsonl", None, "no data matches"),
        ("table.csv", b"a,b", ".jsonl, .json or .parquet"),
        ("empty/README.md", b"x", "no data in this folder"),
        ("a.jsonl", b"", "no row"),
        ("a.jsonl", b"\n \n", "no row"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16"),
        ("a.json", b"", "list"),
        ("a.json", b"3", "list"),
        ("a.json", b'"text"', "list"),
        ("a.json", b'{"a": 1}', "exactly one list"),
        ("a.json", b'{"a": [{}], "b": [{}]}', "'a', 'b'"),
        ("a.json", b'[{"a": 1},\n{"a": 2}', "a.json:2"),
        ("a.json", b'[{"a": 1}] trailing', "a.json:1"),
        ("a.json", b'{"rows": [{"a": 1} {"a": 2}]}', "a.json:1"),
        ("a.json", b"[" * 100_000, "nested"),
        ("a.parquet", b"PAR1 no", "Parquet"),
    ],
)
def test_faults_of_whole_files_are_one_line_that_names_the_file(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    target = str(path.parent) if "README" in name else str(tmp_path) + "/" + name
    with pytest.raises(UserError) as error:
        list(read_rows([target]))
    message = str(error.value)
    assert says in message
    assert message.startswith(target)
    assert "\n" not in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_an_error(tmp_path):
    write(tmp_path / "a.jsonl", "x")
    (tmp_path / "a.jsonl").chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows([str(tmp_path / "a.jsonl")]))


def test_a_missing_path_is_an_error_before_anything_is_read(tmp_path):
    write(tmp_path / "a.jsonl", "x")
    with pytest.raises(UserError, match="no such file"):
        read_rows([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


class Hub:
    """Stands in for datasets' functions that need the network."""

    def __init__(self, monkeypatch, splits):
        import datasets

        self.asked = None
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: splits)
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, name, configuration, split):
        from datasets import Dataset

        self.asked = (name, configuration, split)
        if name == "org/none":
            raise ConnectionError("no\nnetwork")
        return Dataset.from_list([{"messages": [{"role": "assistant", "content": "x", "weight": None}]}])


@pytest.mark.parametrize(
    ("name", "splits", "asked"),
    [
        ("org/name", ["test", "train"], ("org/name", None, "train")),
        ("name", ["only"], ("name", None, "only")),
        ("org/name-1.5:test", [], ("org/name-1.5", None, "test")),
        ("org/name:config:test", [], ("org/name", "config", "test")),
    ],
)
def test_a_name_without_a_file_is_a_hub_data_set(monkeypatch, tmp_path, name, splits, asked):
    monkeypatch.chdir(tmp_path)
    hub = Hub(monkeypatch, splits)
    (row,) = read_rows([name])
    assert hub.asked == asked
    assert row.source == f"{name}#0"
    assert row.conversation.messages[0].weight is None


def test_a_hub_data_set_without_train_needs_its_split_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Hub(monkeypatch, ["dev", "test"])
    with pytest.raises(UserError, match="org/name:dev"):
        list(read_rows(["org/name"]))
    with pytest.raises(UserError, match=r"no such file, and no hub data set could be loaded \(no network\)"):
        list(read_rows(["org/none:train"]))


def test_jsonl_is_streamed(tmp_path):
    path = tmp_path / "a.jsonl"
    line = json.dumps({"messages": [{"role": "assistant", "content": "x" * 10_000}]}) + "\n"
    path.write_text(line * 2000)
    next(iter(read_rows([str(path)])))
    gc.collect()
    tracemalloc.start()
    try:
        assert sum(row.conversation is not None for row in read_rows([str(path)])) == 2000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # of 20 MB
    finally:
        tracemalloc.stop()


def test_reading_json_imports_no_heavy_library(tmp_path):
    import subprocess

    write(tmp_path / "a.jsonl", "x")
    code = (
        "import sys; from agentsft.data.read import read_rows; rows = list(read_rows([sys.argv[1]])); "
        "print(len(rows), sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.jsonl")], capture_output=True, text=True)
    assert done.stdout.strip() == "1 []", done.stderr
