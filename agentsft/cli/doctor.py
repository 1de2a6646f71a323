"""`agentsft doctor`: what this machine has, what a run will use, and why not what would be faster."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from rich.text import Text

from agentsft.cli.display import console, printable, table
from agentsft.errors import UserError

_GIB = 2**30
_PYTHON = (3, 11)
_LITTLE_SPACE = 5.0


def run_doctor(model: str, output_format: str) -> int:
    """Print what was found. Returns 1 if something that a run needs is missing, else 0."""
    if output_format not in ("text", "json"):
        raise UserError(f"--format is text or json; not {output_format!r}.")
    found = examine(model)
    if output_format == "json":
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(found)
    return 1 if found["missing"] else 0


def examine(model: str = "") -> dict[str, Any]:
    """What `doctor --format json` prints: versions, devices, what a run will use, folders, extras.

    `missing` says what must be mended before a run, `slower` what keeps it from being faster; one line each. Memory
    and disk space are in GiB. Raises UserError where `model` is given and has no readable configuration.
    """
    required, extras = packages()
    missing = [
        f"{name}: {p['installed'] or 'not installed'}; pip install '{p['wanted']}'"
        for name, p in required.items()
        if not p["ok"]
    ]
    if sys.version_info < _PYTHON:
        missing.append(f"Python {platform.python_version()}: 3.11 or newer is needed")
    found: dict[str, Any] = {
        "agentsft": version("agentsft"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": required,
        "extras": extras,
        "devices": [],
        "memory_gib": _memory(),
        "cores": os.cpu_count(),
        "run": {},
        "model": None,
        "folders": folders(),
        "missing": missing,
        "slower": [],
    }
    try:
        import torch
    except Exception as error:  # a broken installation raises all kinds, OSError for a library among them
        missing.append(f"torch cannot be imported ({_line(error)})")
        return found
    found["devices"] = devices(torch)
    found["model"] = _model(model) if model else None
    found["run"], found["slower"] = _run(torch, found["model"])
    for name, folder in found["folders"].items():
        if not folder["writable"]:
            missing.append(f"{name}: {folder['path']} cannot be written; {folder['set_by']} names another folder")
        elif folder["free_gib"] is not None and folder["free_gib"] < _LITTLE_SPACE:
            found["slower"].append(f"{name}: {folder['free_gib']:.1f} GiB are free in {folder['path']}")
    return found


def packages() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The packages that are needed, and for each extra those it brings: what is wanted and what is installed."""
    from packaging.requirements import Requirement

    required: dict[str, dict[str, Any]] = {}
    extras: dict[str, dict[str, Any]] = {}
    for line in requires("agentsft") or []:
        one = Requirement(line)
        marker = str(one.marker or "")
        extra = marker.partition("extra == ")[2].split()[0].strip("\"')") if "extra ==" in marker else None
        if one.marker is not None and not one.marker.evaluate({"extra": extra or ""}):
            continue
        try:
            installed: str | None = version(one.name)
        except PackageNotFoundError:
            installed = None
        good = installed is not None and one.specifier.contains(installed, prereleases=True)
        place = required if extra is None else extras.setdefault(extra, {})
        place[one.name] = {"wanted": f"{one.name}{one.specifier}", "installed": installed, "ok": good}
    return required, extras


def devices(torch: Any) -> list[dict[str, Any]]:
    """The accelerators that torch sees, in its order; memory in GiB."""
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found.append(
            {
                "device": f"cuda:{number}",
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory_gib": round(total / _GIB, 1),
                "free_gib": round(free / _GIB, 1),
            }
        )
    if not found and torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor(), "capability": None, "memory_gib": _memory()})
    return found


def folders() -> dict[str, dict[str, Any]]:
    """Where prepared rows, downloaded models and temporary files go; free space in GiB."""
    from agentsft.encode.cache import cache_folder

    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    places = {
        "prepared rows": (cache_folder(), "AGENTSFT_CACHE"),
        "models of the hub": (home.expanduser(), "HF_HOME"),
        "temporary files": (Path(tempfile.gettempdir()), "TMPDIR"),
    }
    return {name: _folder(path, variable) for name, (path, variable) in places.items()}


def _folder(path: Path, variable: str) -> dict[str, Any]:
    """The folder, or the nearest one above it that exists already."""
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    try:
        free: float | None = round(shutil.disk_usage(there).free / _GIB, 1)
    except OSError:
        free = None
    writable = there.is_dir() and os.access(there, os.W_OK)
    return {"path": str(path), "free_gib": free, "writable": writable, "set_by": variable}


def _run(torch: Any, model: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """What a run with the default settings uses here, and why nothing faster."""
    from agentsft.train.model import resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "mps" if _mps(torch) else "cpu")
    precision = resolve_precision("auto", device)
    slower = []
    layout, attention, kernels = "tree", "sdpa, tree by tree", None
    if device.type == "cuda":
        attention, kernels = "flex_attention", "triton"
        if why := _flash_obstacle(torch, device, model["head_dim"] if model else 128, precision):
            slower.append(f"FlashAttention-4 is not used: {why}")
        else:
            kernels = "triton or FlashAttention-4, whichever is faster on the first pack"
        if precision != "bf16":
            slower.append("precision fp32: this GPU has no bfloat16; --precision fp16 may be faster")
    else:
        slower.append(_no_gpu(torch))
    if model and model["obstacle"]:
        layout, attention = "split", f"{model['attention']} on padded rows"
        slower.append(f"token trees are not used: {model['obstacle']}")
    compiled = device.type == "cuda"
    if compiled and not _importable("triton"):
        slower.append("Triton cannot be imported, which torch.compile and flex attention need: pip install triton")
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    return {
        "device": str(device),
        "precision": precision,
        "layout": layout,
        "attention": attention,
        "kernels": kernels,
        "torch_compile": compiled,
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "compiler": compiler,
    }, slower


def _no_gpu(torch: Any) -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "no GPU is used: this torch is built for CPUs alone; pip install torch brings one with CUDA"
    driver = "; nvidia-smi is there, so driver and torch do not fit" if shutil.which("nvidia-smi") else ""
    return f"no GPU is used: torch with CUDA {torch.version.cuda} finds none{driver}"


def _flash_obstacle(torch: Any, device: Any, head_dim: int, precision: str) -> str:
    try:
        from agentsft.train.flash import obstacle
    except ImportError as error:
        return f"it cannot be imported ({_line(error)})"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    return obstacle(device, head_dim, dtype)


def _model(name: str) -> dict[str, Any]:
    """What a model's configuration says of attention: its kind, heads, longest context, and what hinders trees."""
    from transformers import AutoConfig

    from agentsft.train.layout import mask_obstacle

    try:
        config = AutoConfig.from_pretrained(name)
    except Exception as error:  # damaged files make the libraries raise all kinds
        raise UserError(f"model {name!r}: its configuration cannot be loaded ({_line(error)}).") from None
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    longest = getattr(text, "max_position_embeddings", None) or 0
    return {
        "model": name,
        "type": config.model_type,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "longest_context": longest or None,
        "attention": getattr(config, "_attn_implementation", None) or "sdpa",
        "obstacle": mask_obstacle(config, longest),
    }


def _print(found: dict[str, Any]) -> None:
    screen = console()
    run = found["run"]
    facts = [
        ("agentsft", f"{found['agentsft']}, Python {found['python']}"),
        ("machine", f"{found['cores']} cores, {_gib(found['memory_gib'])}, {found['platform']}"),
        *(
            (d["device"], f"{d['name']}, {_gib(d['memory_gib'])}, capability {d['capability']}")
            for d in found["devices"]
        ),
    ]
    if run:
        kernels = f" ({run['kernels']})" if run["kernels"] else ""
        facts += [
            ("a run uses", f"{run['device']}, {run['precision']}, layout {run['layout']}"),
            ("attention", f"{run['attention']}{kernels}"),
            (
                "torch.compile",
                f"{'on' if run['torch_compile'] else 'off'}; Triton {run['triton'] or 'is not installed'}",
            ),
        ]
    if model := found["model"]:
        facts.append(("model", f"{model['type']}, heads of {model['head_dim']}, context {model['longest_context']}"))
    facts += [(name, f"{f['path']}, {_gib(f['free_gib'])} free") for name, f in found["folders"].items()]
    made = table("", ["", ""], ((name, printable(str(fact))) for name, fact in facts))
    made.show_header = False
    screen.print(made)
    rows = [(p["wanted"], p["installed"] or "missing", "needed") for p in found["packages"].values()]
    for extra, brought in found["extras"].items():
        rows += [(p["wanted"], p["installed"] or "-", f"extra {extra}") for p in brought.values()]
    screen.print(table("\npackages", ["wanted", "installed", ""], rows))
    for line in found["slower"]:
        screen.print(Text(f"\nslower: {line}", "yellow"))
    for line in found["missing"]:
        screen.print(Text(f"\nmissing: {line}", "bold red"))
    if not found["missing"]:
        screen.print(Text("\nnothing needed is missing", "green"))


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _mps(torch: Any) -> bool:
    return bool(torch.backends.mps.is_available())


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} GiB"


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except Exception:
        return False
    return True


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
