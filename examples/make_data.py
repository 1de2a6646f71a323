"""Write the example conversations: python examples/make_data.py --out examples/data

Every observation in them is what a tool returned while this script ran. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent_tasks import chinese, formats, handbook, mistakes, office, plain, rules, searches, service, several, shop
from agent_tasks.episode import Episode
from agent_tasks.weights import weights_row
from agent_tasks.world import World, make_world

Row = dict[str, Any]
Task = Callable[[Episode], Any]

# Tasks with one call a step, for every format; those that return a follow-up can go on.
SINGLE: tuple[Task, ...] = (
    shop.discount, office.average, handbook.policy, office.trip_fuel, shop.category_stock, office.unit,
    handbook.allowance, shop.low_stock, office.offers, mistakes.wrong_table, office.deadline, searches.second_word,
    shop.best_customer, mistakes.percent_error, handbook.return_until, shop.month_share, mistakes.unit_error,
    handbook.trip_budget, rules.refund, shop.reorder_cost, office.days_rate, searches.missing_file, shop.within_budget,
    mistakes.currency_error, handbook.leave_notice, mistakes.return_rate, office.text_length, searches.not_there,
    mistakes.wrong_column, mistakes.growth, rules.reorder_list, mistakes.bad_date, rules.free_delivery,
    office.travel_time,
)  # fmt: skip
FOLLOWED: tuple[Task, ...] = (
    shop.discount, handbook.policy, office.trip_fuel, shop.category_stock, office.unit, shop.best_customer,
    office.deadline,
)  # fmt: skip
PARALLEL: tuple[Task, ...] = (
    several.stock_of_several, several.several_units, several.several_days, several.several_currencies,
    several.two_rules, several.several_rates, several.order_delivery, several.recipe,
)  # fmt: skip
SERVICE: tuple[Task, ...] = (service.cancel, service.too_late, service.change_quantity, service.unknown_order)
PLAIN: tuple[Task, ...] = (plain.sorting, plain.puzzle, plain.clash, plain.later_day)


def cycle(tasks: tuple[Task, ...], number: int) -> Task:
    """Task `number` of an endless round."""
    return tasks[number % len(tasks)]


def talk(ep: Episode, task: Task, follow: bool = True, thanks: float = 0.0) -> Episode:
    """One task, its follow-up where it has one, and perhaps a thank-you."""
    go_on = task(ep)
    if follow and callable(go_on):
        go_on()
    if ep.rng.random() < thanks:
        plain.thanks(ep)
    return ep


def react_row(ep: Episode, number: int) -> Row:
    return formats.react(talk(ep, cycle(SINGLE, number), follow=False), extra=ep.rng.randint(0, 1))


def tool_calls_row(ep: Episode, number: int) -> Row:
    kind, turn = number % 4, number // 4
    task = cycle((PARALLEL, FOLLOWED, SERVICE, SINGLE)[kind], 2 * turn if kind == 3 else turn)
    talk(ep, task, follow=kind == 1, thanks=0.2)
    return formats.openai(ep, aside=0.5 if turn % 2 else 0.0, system=turn % 3 != 2, extra=ep.rng.randint(0, 3))


def sharegpt_row(ep: Episode, number: int) -> Row:
    talk(ep, cycle(SINGLE, 5 * number + 2), follow=number % 2 == 0, thanks=0.2)
    return formats.sharegpt(ep, system=number % 3 == 0)


def thinking_row(ep: Episode, number: int) -> Row:
    kind, turn = number % 5, number // 5
    if kind == 0:  # thinking before every call of a tool loop
        return formats.reasoning(talk(ep, cycle(SINGLE, 4 * turn + 3), follow=False))
    if kind == 1:  # several user turns, thinking in each
        return formats.reasoning(talk(ep, cycle(FOLLOWED + SERVICE[2:], turn), thanks=0.3))
    if kind == 2:  # no tools, several user turns, blocks inline
        talk(ep, cycle(PLAIN, turn), thanks=0.3)
        return formats.inline(ep, [False] * len(ep.exchanges))
    if kind == 3:  # tools and user turns, thinking switched off for some or all of them
        talk(ep, cycle(FOLLOWED, turn), thanks=0.5)
        empty = [True] * len(ep.exchanges) if turn % 2 else [False] + [True] * (len(ep.exchanges) - 1)
        return formats.inline(ep, empty, switch=turn % 3 == 0)
    talk(ep, cycle(PARALLEL + PLAIN, turn), thanks=0.4)  # the first answer without thinking, the others with or without
    return formats.inline(ep, [True] + [turn % 2 == 0] * (len(ep.exchanges) - 1))


def chinese_row(ep: Episode, number: int) -> Row:
    if number % 9 == 8:
        chinese.parallel_stock(ep)
        return chinese.chinese_openai(ep)
    cycle(chinese.CHINESE_TASKS, number)(ep)
    return chinese.chinese_openai(ep) if number % 3 == 1 else chinese.chinese_react(ep)


def alpaca_row(ep: Episode, number: int) -> Row:
    if number % 3:
        return formats.react_alpaca(talk(ep, cycle(SINGLE, 4 * number + 1), follow=False))
    instruction, text = cycle((plain.to_json, plain.to_table, plain.to_sentence), number // 3)(ep)
    return {"instruction": instruction, "input": text, "output": ep.exchanges[-1].answer}


def weighted_row(ep: Episode, number: int) -> Row:
    return weights_row(ep.rng, ep, number)


FILES: dict[str, tuple[int, Callable[[Episode, int], Row]]] = {
    "react.jsonl": (72, react_row),
    "react_eval.jsonl": (16, lambda ep, number: react_row(ep, 2 * number + 1)),
    "tool_calls.jsonl": (48, tool_calls_row),
    "sharegpt.json": (32, sharegpt_row),
    "thinking.jsonl": (45, thinking_row),
    "chinese.jsonl": (18, chinese_row),
    "alpaca.json": (18, alpaca_row),
    "weights.jsonl": (8, weighted_row),
}


def rows(name: str, seed: int, asked: set[str]) -> Iterator[Row]:
    """The rows of a file. Each has a world of its own; none asks what is in `asked`, which grows."""
    count, build = FILES[name]
    world_of: Callable[[random.Random, Path], World] = make_world
    if name == "chinese.jsonl":
        world_of = chinese.make_chinese_world
    for number in range(count):
        for attempt in range(100):
            rng = random.Random(f"{seed} {name} {number} {attempt}")
            with tempfile.TemporaryDirectory() as folder:
                episode = Episode(rng, world_of(rng, Path(folder)))
                row = build(episode, number)
            question = episode.exchanges[0].question
            if question not in asked:
                break
        else:
            raise RuntimeError(f"{name}: no new question for row {number} in 100 attempts")
        asked.add(question)
        yield {"id": f"{Path(name).stem}-{number:03}", **row}


def write(out: Path, seed: int) -> None:
    """All files, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    asked: set[str] = set()
    for name in FILES:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(name, seed, asked)]
        text = "\n".join(lines) + "\n" if name.endswith(".jsonl") else "[\n" + ",\n".join(lines) + "\n]\n"
        (out / name).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=7, help="another seed gives other conversations")
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
