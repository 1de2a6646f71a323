"""The recipes and the commands of the README are what the program takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentsft.config import TrainConfig, build
from agentsft.recipe import load_recipe
from agentsft.weigh.loss_scale import parse_loss_scale
from agentsft.weigh.select import check_combination

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_known_settings_and_data_that_exists(path: Path) -> None:
    config = build(TrainConfig, load_recipe(path), str(path))
    check_combination(parse_loss_scale(config.loss_scale), config.mask_history)
    assert config.model
    assert all((ROOT / data).exists() for data in [*config.data, *config.eval_data])
    launch = next(line for line in path.read_text(encoding="utf-8").splitlines() if "agentsft train" in line)
    assert f"recipes/{path.name}" in launch


def test_the_readme_names_every_recipe_and_only_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert {path.name for path in RECIPES} <= {Path(link).name for link in links}


def test_the_readmes_flags_exist() -> None:
    from dataclasses import fields

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {"--" + field.name.replace("_", "-") for field in fields(TrainConfig)}
    known |= {
        "--help",
        "--tokens",
        "--format",
        "--out",
        "--index-url",
        "--cpu",
        "--multi_gpu",
        "--num_processes",
        "--strict",
    }
    used = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", readme))
    assert used
    assert used <= known
