"""The tools of the example agents. They really run; whatever they return or refuse is what the agent observes."""

from __future__ import annotations

import ast
import calendar
import json
import math
import operator
import re
import sqlite3
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from agent_tasks.world import World


class ToolError(Exception):
    """What a tool answers when it cannot do what it was asked."""


def _tool(description: str, **properties: tuple[str, str]) -> dict[str, Any]:
    """A tool's description and JSON schema; every property is a (type, description) pair and required."""
    return {
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {name: {"type": kind, "description": text} for name, (kind, text) in properties.items()},
            "required": list(properties),
            "additionalProperties": False,
        },
    }


TOOLS: dict[str, dict[str, Any]] = {
    "calculator": _tool("Evaluate arithmetic.", expression=("string", "such as round(3 * 4.5, 2)")),
    "sql": _tool(
        "Run one SELECT. Tables: products(id, name, category, price, stock), customers(id, name, city), "
        "orders(id, customer_id, product_id, quantity, ordered_on, status).",
        query=("string", "SQLite's dialect"),
    ),
    "search_files": _tool("Find the handbook lines that hold all the words.", query=("string", "one or more words")),
    "read_file": _tool("Read a file of the handbook.", path=("string", "such as travel.md")),
    "list_files": _tool("List the files of the handbook."),
    "convert_units": _tool(
        "Convert a quantity between units.",
        value=("number", "the quantity"),
        from_unit=("string", "such as km"),
        to_unit=("string", "such as mile"),
    ),
    "convert_currency": _tool(
        "Convert an amount of money.",
        amount=("number", "the amount"),
        base=("string", "currency code to convert from"),
        quote=("string", "currency code to convert to"),
    ),
    "exchange_rate": _tool("Price of one base unit.", base=("string", "currency code"), quote=("string", "the other")),
    "add_days": _tool(
        "The date so many days later.", date=("string", "YYYY-MM-DD"), days=("integer", "negative for earlier")
    ),
    "days_between": _tool(
        "Days from one date to another.", start=("string", "YYYY-MM-DD"), end=("string", "YYYY-MM-DD")
    ),
    "weekday": _tool("The day of the week.", date=("string", "YYYY-MM-DD")),
    "text_stats": _tool("Count characters, words and sentences.", text=("string", "the text to measure")),
    "get_order": _tool("Look up an order.", order_id=("integer", "the order's number")),
    "cancel_order": _tool("Cancel a pending order.", order_id=("integer", "the order's number")),
    "set_quantity": _tool(
        "Change the quantity of a pending order.",
        order_id=("integer", "the order's number"),
        quantity=("integer", "the new quantity"),
    ),
}
BLIND_SQL = "Run one SELECT on the shop's SQLite database."

_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable] = {"round": round, "abs": abs, "min": min, "max": max, "sqrt": math.sqrt}

# Units of each dimension, in the dimension's first unit. Temperatures have an offset and are handled apart.
_UNITS: dict[str, float] = {}
_DIMENSION: dict[str, str] = {}
for _dimension, _table in {
    "length": {"m": 1, "km": 1000, "cm": 0.01, "mile": 1609.344, "yard": 0.9144, "foot": 0.3048, "inch": 0.0254},
    "mass": {"kg": 1, "g": 0.001, "tonne": 1000, "pound": 0.45359237, "ounce": 0.028349523125},
    "volume": {"litre": 1, "ml": 0.001, "gallon": 3.785411784, "cup": 0.2365882365},
    "time": {"hour": 1, "minute": 1 / 60, "day": 24},
    "speed": {"km/h": 1, "m/s": 3.6, "mph": 1.609344},
    "temperature": {"celsius": 1, "fahrenheit": 1, "kelvin": 1},
}.items():
    _UNITS |= _table
    _DIMENSION |= dict.fromkeys(_table, _dimension)

# Units of each currency that one euro buys. Made up for the examples, and fixed.
RATES = {"EUR": 1, "USD": 1.08, "GBP": 0.85, "CHF": 0.95, "JPY": 162, "CNY": 7.8, "SEK": 11.4, "PLN": 4.3, "CAD": 1.48}


def calculate(expression: str) -> int | float:
    """The value of an arithmetic expression, to 10 decimals. Nothing but numbers, operators and five functions."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.UnaryOp(op, operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(operand))
            case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
                a, b = value(left), value(right)
                if isinstance(op, ast.Pow) and (abs(a) > 1e6 or abs(b) > 32):
                    raise ToolError("power too large")
                return _OPERATORS[type(op)](a, b)
            case ast.Call(ast.Name(name), arguments, []) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*map(value, arguments))
        raise ToolError("not an arithmetic expression; use numbers, + - * / // % **, round, abs, min, max, sqrt")

    if len(expression) > 200:
        raise ToolError("expression too long")
    try:
        result = value(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except SyntaxError:
        raise ToolError("not valid syntax; write a percentage as a fraction and numbers without commas") from None
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ToolError("cannot be computed") from None
    if isinstance(result, complex) or not math.isfinite(result):
        raise ToolError("cannot be computed")
    return _tidy(result, 10)


def convert_units(value: float, from_unit: str, to_unit: str) -> int | float:
    """The quantity in the other unit, to 4 decimals."""
    for unit in (from_unit, to_unit):
        if unit not in _UNITS:
            raise ToolError(f"unknown unit '{unit}'; known: {', '.join(_UNITS)}")
    if _DIMENSION[from_unit] != _DIMENSION[to_unit]:
        raise ToolError(f"cannot convert {_DIMENSION[from_unit]} to {_DIMENSION[to_unit]}")
    if _DIMENSION[from_unit] != "temperature":
        return _tidy(value * _UNITS[from_unit] / _UNITS[to_unit], 4)
    celsius = {"celsius": value, "fahrenheit": (value - 32) / 1.8, "kelvin": value - 273.15}[from_unit]
    return _tidy({"celsius": celsius, "fahrenheit": celsius * 1.8 + 32, "kelvin": celsius + 273.15}[to_unit], 4)


def exchange_rate(base: str, quote: str) -> int | float:
    """How many units of `quote` one unit of `base` buys, to 4 decimals."""
    return _tidy(_exchange(1, base, quote), 4)


def convert_currency(amount: float, base: str, quote: str) -> int | float:
    """The amount in the other currency, to cents."""
    return _tidy(_exchange(amount, base, quote), 2)


def text_stats(text: str) -> dict[str, int]:
    """How many characters, words and sentences a text has."""
    sentences = [part for part in re.split(r"[.!?]+(?:\s+|$)", text) if part.strip()]
    return {"characters": len(text), "words": len(text.split()), "sentences": len(sentences)}


def _exchange(amount: float, base: str, quote: str) -> float:
    for code in (base, quote):
        if code not in RATES:
            raise ToolError(f"unknown currency '{code}'; known: {', '.join(RATES)}")
    return amount / RATES[base] * RATES[quote]


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        try:
            first = date.fromisoformat(f"{text[:7]}-01")
        except ValueError:
            raise ToolError(f"{text} is not a date of the form YYYY-MM-DD") from None
        last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
        raise ToolError(f"no such date: {text}; the month ends on {last}") from None


def _tidy(number: float, digits: int) -> int | float:
    number = round(number, digits)
    return int(number) if number == int(number) else number


class Toolbox:
    """The tools, working on one world. `call` gives what an agent sees: text, an error included."""

    def __init__(self, world: World) -> None:
        self.world = world

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What the tool returned: its text, or JSON where it is no text, or `Error: ...`."""
        try:
            result = getattr(self, f"_{name}")(**arguments)
        except ToolError as error:
            return f"Error: {error}"
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)

    def _calculator(self, expression: str) -> int | float:
        return calculate(expression)

    def _sql(self, query: str) -> list[dict[str, Any]]:
        self.world.database.execute("PRAGMA query_only = ON")
        try:
            return self._rows(query)
        except sqlite3.Error as error:
            raise ToolError(str(error)) from None
        finally:
            self.world.database.execute("PRAGMA query_only = OFF")

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self.world.database.execute(query, values)
        columns = [column[0] for column in cursor.description or ()]
        rows = [[_tidy(cell, 6) if isinstance(cell, float) else cell for cell in row] for row in cursor.fetchmany(20)]
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def _list_files(self) -> list[str]:
        return sorted(path.name for path in self.world.folder.iterdir())

    def _read_file(self, path: str) -> str:
        if path not in self._list_files():
            raise ToolError(f"no such file: {path}")
        return (self.world.folder / path).read_text(encoding="utf-8").strip()

    def _search_files(self, query: str) -> str:
        words = query.lower().split()
        hits = [
            f"{name}:{number}: {line}"
            for name in self._list_files()
            for number, line in enumerate(self._read_file(name).splitlines(), 1)
            if all(word in line.lower() for word in words)
        ]
        return "\n".join(hits[:5]) or "No matches."

    def _convert_units(self, value: float, from_unit: str, to_unit: str) -> int | float:
        return convert_units(value, from_unit, to_unit)

    def _convert_currency(self, amount: float, base: str, quote: str) -> int | float:
        return convert_currency(amount, base, quote)

    def _exchange_rate(self, base: str, quote: str) -> int | float:
        return exchange_rate(base, quote)

    def _add_days(self, date: str, days: int) -> str:
        return (_date(date) + timedelta(days=days)).isoformat()

    def _days_between(self, start: str, end: str) -> int:
        return (_date(end) - _date(start)).days

    def _weekday(self, date: str) -> str:
        return ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[_date(date).weekday()]

    def _text_stats(self, text: str) -> dict[str, int]:
        return text_stats(text)

    def _get_order(self, order_id: int) -> dict[str, Any]:
        rows = self._rows(
            "SELECT o.id, c.name AS customer, p.name AS product, o.quantity, p.price, o.ordered_on, o.status "
            "FROM orders o JOIN customers c ON c.id = o.customer_id JOIN products p ON p.id = o.product_id "
            "WHERE o.id = ?",
            order_id,
        )
        if not rows:
            raise ToolError(f"no order {order_id}")
        return rows[0]

    def _cancel_order(self, order_id: int) -> dict[str, Any]:
        self._pending(order_id)
        self.world.database.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order_id,))
        return {"id": order_id, "status": "cancelled"}

    def _set_quantity(self, order_id: int, quantity: int) -> dict[str, Any]:
        order = self._pending(order_id)
        in_stock = self._rows("SELECT stock FROM products WHERE name = ?", order["product"])[0]["stock"]
        if quantity > in_stock:
            raise ToolError(f"only {in_stock} in stock")
        self.world.database.execute("UPDATE orders SET quantity = ? WHERE id = ?", (quantity, order_id))
        return {"id": order_id, "quantity": quantity, "total": _tidy(quantity * order["price"], 2)}

    def _pending(self, order_id: int) -> dict[str, Any]:
        order = self._get_order(order_id)
        if order["status"] != "pending":
            raise ToolError(f"order {order_id} is {order['status']}; only pending orders can be changed")
        return order
