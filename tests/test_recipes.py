"""The recipes, their launch lines and the commands of the README are what the programs take."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from agentsft.cli.app import app
from agentsft.config import TrainConfig, build, check_together
from agentsft.recipe import load_recipe
from agentsft.weigh.loss_scale import parse_loss_scale
from agentsft.weigh.select import check_combination

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
JOBS = sorted((ROOT / "recipes").glob("*.slurm"))


def launches(path: Path) -> list[str]:
    """The command lines of a recipe's comments or of a job's script."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [line.lstrip("# ").removeprefix("exec ") for line in text.splitlines()]
    return [line for line in found if re.match(r"(agentsft|accelerate launch|torchrun) ", line)]


def of_agentsft(line: str) -> list[str]:
    """The words that agentsft gets, after its launcher has taken its own."""
    words = shlex.split(line)
    if words[0] == "agentsft":
        return words[1:]
    parser: Any
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parser, given = get_args_parser(), words[1:]
    else:
        from accelerate.commands.launch import launch_command_parser

        parser, given = launch_command_parser(), words[2:]
    taken = parser.parse_args(given)
    assert taken.module
    assert taken.training_script == "agentsft"
    return taken.training_script_args


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_known_settings_and_data_that_exists(path: Path) -> None:
    config = build(TrainConfig, load_recipe(path), str(path))
    check_combination(parse_loss_scale(config.loss_scale), config.mask_history)
    check_together(config, run=False)
    assert config.model
    assert config.output == f"outputs/{path.stem}"
    assert all((ROOT / data).exists() for data in [*config.data, *config.eval_data])


@pytest.mark.parametrize("path", [*RECIPES, *JOBS], ids=lambda path: path.name)
def test_its_launch_lines_are_what_launcher_and_agentsft_take(path: Path) -> None:
    group: Any = typer.main.get_command(app)
    lines = [of_agentsft(line) for line in launches(path)]
    assert any(words[:2] == ["train", f"recipes/{path.stem}.yaml"] for words in lines)
    for command, *words in lines:
        known = {name for param in group.commands[command].params for name in (*param.opts, *param.secondary_opts)}
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= known
        assert not [word for word in words if word.startswith("recipes/") and not (ROOT / word).exists()]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_is_a_script_whose_options_stand_before_its_first_command(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    variables = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"}  # as torchrun sets them
    assert all(re.search(rf"\b{name}\b", "\n".join(lines[first:])) for name in variables)
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH --")]
    assert options
    assert max(options) < first  # Slurm reads none behind it


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
