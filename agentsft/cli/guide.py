"""What --help says beside the flags: commands in groups, examples of each, exit codes."""

from __future__ import annotations

PANELS = {
    "Look before you train": ("check", "preview", "plan", "strategies"),
    "Train": ("train", "report"),
    "Judge and use the result": ("eval", "chat", "merge"),
    "This machine": ("doctor", "smollm2", "demo"),
}

EXAMPLES = {
    "check": (
        "agentsft check rows.jsonl --model Qwen/Qwen3-8B",
        "agentsft check data/ --model models/qwen3 --strict --format json",
    ),
    "preview": (
        "agentsft preview rows.jsonl --model models/qwen3 --loss-scale react -n 2",
        "agentsft preview rows.jsonl --model models/qwen3 --row 7 --tokens",
        "agentsft preview rows.jsonl --model models/qwen3 --format html --out page.html",
    ),
    "plan": (
        "agentsft plan recipe.yaml",
        "agentsft plan --model models/qwen3 --data rows.jsonl --tuner lora",
    ),
    "strategies": ("agentsft strategies",),
    "train": (
        "agentsft train recipe.yaml",
        "agentsft train recipe.yaml --loss-scale react --output runs/react",
        "agentsft train --model models/qwen3 --data rows.jsonl --tuner lora",
        "accelerate launch -m agentsft train recipe.yaml",
    ),
    "report": (
        "agentsft report runs/react",
        "agentsft report runs/react runs/default --out report.html --png",
    ),
    "merge": ("agentsft merge runs/lora --out models/merged",),
    "eval": (
        "agentsft eval runs/react held_out.jsonl",
        "agentsft eval runs/react held_out.jsonl --format json",
    ),
    "chat": (
        "agentsft chat runs/react",
        "agentsft chat runs/react --tools tools.json --temperature 0",
    ),
    "doctor": ("agentsft doctor", "agentsft doctor --model models/qwen3 --format json"),
    "smollm2": ("agentsft smollm2 models/smollm2",),
    "demo": ("agentsft demo --output outputs/demo",),
}
"""Command lines that --help and docs/cli.md show; every one is parsed in the tests."""

EXIT_CODES = {
    0: "done; check: every row is proven; doctor: nothing is missing",
    1: "check: a row is refused, or warned of (--strict); plan: it does not fit; doctor: something is missing",
    2: "a mistake in flags, recipe, data or model, said in one line on stderr",
    130: "stopped by Ctrl-C; train writes a checkpoint first",
    141: "what reads the output closed the pipe, as head does",
    143: "stopped by SIGTERM; train writes a checkpoint first",
}

PANEL_OF = {command: panel for panel, commands in PANELS.items() for command in commands}


def epilog(command: str | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """What stands below a command's flags: its examples, or for None the exit codes of all commands."""
    if command is None:
        return [("Exit codes", [(f"{code:>3}", meaning) for code, meaning in EXIT_CODES.items()])]
    return [("Examples", [(line, "") for line in EXAMPLES[command]])] if command in EXAMPLES else []
