"""Recipes: a configuration as YAML, read without trust in it and written in full."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from agentsft.config import DataConfig
from agentsft.errors import UserError, shown

_LARGEST_RECIPE = 100_000
"""Values in a recipe, counted as often as an alias repeats them: a few lines of aliases can stand for billions."""


def load_recipe(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML recipe. Raises UserError when it cannot be read, is no mapping or has a key twice."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if next(islice(_inner_nodes(node), _LARGEST_RECIPE, None), None) is not None:
            raise UserError(f"{path}: its aliases stand for more than {_LARGEST_RECIPE:,} values; write them out.")
        values = yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; give the path of a YAML file.") from None
    except UserError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); a recipe is a UTF-8 YAML file.") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; a recipe is a mapping of settings to values.") from None
    except Exception as error:  # besides YAMLError, whatever numbers, dates and tags raise that Python does not take
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())[:300]}); mend it.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a recipe is a mapping of settings such as `model: PATH`, not a {type(values).__name__}."
        )
    if twice := _repeated_key(node):
        raise UserError(f"{path}: {twice} is there twice; keep one of them.")
    return values


def _repeated_key(node: Any) -> str | None:
    """The first setting that a recipe gives twice, with its line; YAML itself would take the last one in silence."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return None
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                return f"line {key.start_mark.line + 1}: {shown(key.value)}"
            seen.add(key.value)
    return None


def _inner_nodes(node: Any) -> Iterator[Any]:
    """A YAML node and every one inside it, as often as aliases repeat it, without recursion: some form a circle."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(getattr(node, "value", None), list):  # of nodes, or of pairs of them in a mapping
            stack += [inner for item in node.value for inner in (item if isinstance(item, tuple) else (item,))]


def dump_recipe(config: DataConfig) -> str:
    """The configuration as YAML, every value resolved."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)
