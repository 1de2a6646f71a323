"""The page holds all it shows, asks nothing of a network, and lets no text of a run act."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.report import run_report
from agentsft.errors import UserError
from agentsft.report.charts import charts
from agentsft.report.read import read_run, read_runs
from tests.report.folders import run_folder, step_row, write_lines


def specs(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])["specs"]


def build(*folders: Path) -> str:
    pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    from agentsft.report.page import build_page

    return build_page(read_runs(list(folders)))


def points(spec: dict[str, Any]) -> list[str]:
    return spec["data"]["values"].splitlines()[1:]


def test_every_step_of_a_run_stands_in_its_plots(tmp_path: Path) -> None:
    plots = {plot.name: plot.spec for plot in charts([read_run(run_folder(tmp_path / "run", steps=30))])}
    assert {"loss", "eval_loss", "loss_by_label", "eval_loss_by_label", "learning_rate", "grad_norm"} <= plots.keys()
    assert {"tokens_per_second", "mfu", "memory_gib"} <= plots.keys()
    assert [float(line.split(",")[0]) for line in points(plots["loss"])] == list(range(1, 31))
    assert len(points(plots["loss_by_label"])) == 4 * 30


def test_a_run_keeps_its_colour_where_another_has_no_data(tmp_path: Path) -> None:
    runs = read_runs([run_folder(tmp_path / "a", evaluate=False), run_folder(tmp_path / "b")])
    for plot in charts(runs):
        colour = next(layer for layer in plot.spec["layer"] if "color" in layer["encoding"])["encoding"]["color"]
        assert colour["scale"]["domain"] == ["a", "b"]
        if plot.name == "eval_loss":
            assert colour["legend"] == {"values": ["b"]}


def test_a_page_needs_no_network_and_holds_every_plot(tmp_path: Path) -> None:
    page = build(run_folder(tmp_path / "a"), run_folder(tmp_path / "b", seed=1, evaluate=False, loss_scale="react"))
    shown = re.findall(r'data-plot="([^"]+)"', page)
    assert shown
    assert set(shown) == specs(page).keys()
    assert "default-src 'none'" in page  # the browser itself refuses any request
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""\b(?:src|href)=|@import|url\(""", own)
    assert "loss_scale" in page.split("Settings that differ")[1].split("<h2>")[0]


def test_text_of_a_run_is_shown_and_never_acts(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    folder = run_folder(tmp_path / "run", loss_scale=hostile)
    write_lines(folder / "ledger.jsonl", [{"source": hostile, "reason": hostile, "detail": hostile}])
    write_lines(folder / "duplicates.jsonl", [{"kind": hostile, "source": hostile, "detail": hostile, "first": "f"}])
    write_lines(folder / "metrics.jsonl", [step_row(1, 1, loss_by_label={hostile: 1.0}, skipped=hostile)])
    (folder / "run.json").write_text(json.dumps({"device": hostile, "versions": {hostile: hostile}}))
    page = build(folder)
    assert "alert(1)&lt;/script&gt;" in page
    own = re.sub(r'<script type="module">.*?</script>', "", page, flags=re.DOTALL)  # the library has such words
    assert "<img" not in own
    assert "<script>alert" not in own
    assert hostile in json.dumps(specs(page))


@pytest.mark.parametrize("what", ["empty", "no recipe", "nothing but a recipe", "garbage"])
def test_broken_folders_give_a_page(tmp_path: Path, what: str) -> None:
    folder = run_folder(tmp_path / "run")
    if what == "empty":
        (folder / "metrics.jsonl").write_text("")
    elif what == "no recipe":
        (folder / "recipe.yaml").unlink()
    elif what == "nothing but a recipe":
        for log in folder.glob("*.jsonl"):
            log.unlink()
    else:
        for file in folder.iterdir():
            file.write_bytes(b"\x00\xff{[\n: - : {\n")
        broken = [{"step": 1}, {"step": 2, "loss": "much", "loss_by_label": [3], "grad_norm": {}, "seconds": None}]
        write_lines(folder / "metrics.jsonl", broken)
    assert "</html>" in build(folder)


def test_pictures_are_written_beside_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    folder = run_folder(tmp_path / "run")
    assert run_report([folder], None, png=True) == 0
    pictures = list((folder / "report").glob("*.png"))
    assert len(pictures) == len(charts([read_run(folder)]))
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert str(folder / "report.html") in capsys.readouterr().out


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "vl_convert":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r'pip install "agentsft\[report\]"'):
        run_report([run_folder(tmp_path / "run")], None, png=False)


def test_the_command_writes_the_page_to_standard_output_alone(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    from agentsft.cli.app import app

    folder = run_folder(tmp_path / "run")
    done = CliRunner().invoke(app, ["report", str(folder), "--out", "-"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.startswith("<!doctype html>")
    assert not (folder / "report.html").exists()
