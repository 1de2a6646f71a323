"""The worlds that the tools act on: a shop's database and a company's handbook, other values in each."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

# Products of each shop: name, category, lowest and highest price in EUR.
SHOPS: dict[str, tuple[tuple[str, str, int, int], ...]] = {
    "Larkfield Garden Supply": (
        ("watering can", "tools", 12, 30),
        ("hand trowel", "tools", 6, 15),
        ("pruning saw", "tools", 15, 40),
        ("lavender seed tray", "seeds", 3, 8),
        ("tomato seed pack", "seeds", 2, 5),
        ("clay pot", "pots", 4, 20),
        ("hanging basket", "pots", 8, 25),
        ("compost bag", "soil", 5, 14),
        ("bark mulch sack", "soil", 5, 12),
    ),
    "Brightwater Office": (
        ("desk lamp", "lighting", 18, 60),
        ("floor lamp", "lighting", 40, 120),
        ("office chair", "furniture", 90, 240),
        ("filing cabinet", "furniture", 70, 180),
        ("standing desk", "furniture", 200, 480),
        ("gel pen set", "stationery", 4, 14),
        ("dot notebook", "stationery", 3, 12),
        ("long-arm stapler", "stationery", 12, 35),
        ("wall calendar", "stationery", 6, 18),
    ),
    "Copper Kettle Kitchenware": (
        ("cast-iron pan", "cookware", 25, 80),
        ("stock pot", "cookware", 30, 90),
        ("milk saucepan", "cookware", 15, 40),
        ("bread knife", "knives", 12, 45),
        ("paring knife", "knives", 6, 20),
        ("pie dish", "bakeware", 8, 25),
        ("muffin tin", "bakeware", 9, 22),
        ("tea kettle", "kettles", 20, 70),
        ("gooseneck kettle", "kettles", 35, 95),
    ),
    "Northgate Cycles": (
        ("bicycle bell", "accessories", 5, 15),
        ("rear rack", "accessories", 20, 55),
        ("floor pump", "tools", 18, 50),
        ("chain tool", "tools", 8, 22),
        ("rain cape", "clothing", 25, 70),
        ("winter glove pair", "clothing", 15, 45),
        ("touring tyre", "tyres", 20, 60),
        ("gravel tyre", "tyres", 28, 75),
        ("dynamo headlight", "lights", 30, 110),
    ),
    "Juniper Paper & Crafts": (
        ("sketch pad", "paper", 5, 18),
        ("origami paper box", "paper", 4, 12),
        ("watercolour set", "paint", 12, 48),
        ("acrylic starter kit", "paint", 15, 60),
        ("round brush", "brushes", 3, 16),
        ("flat brush", "brushes", 3, 18),
        ("table easel", "easels", 22, 75),
        ("field easel", "easels", 45, 130),
        ("linen canvas", "canvas", 9, 40),
    ),
}
CUSTOMERS = (
    "Ines Okafor", "Tomas Lindqvist", "Priya Raman", "Marek Duda", "Leila Haddad", "Owen Pritchard", "Yuki Tanabe",
    "Sofia Marchetti", "Daniel Mbeki", "Hanna Virtanen", "Rui Carvalho", "Greta Holm", "Amir Nazari", "Clara Weiss",
    "Bruno Teixeira", "Nadia Petrova", "Samuel Osei", "Elif Aydin", "Pavel Novotny", "Mira Kovacs",
)  # fmt: skip
CITIES = ("Bergen", "Porto", "Gdansk", "Lyon", "Graz", "Tampere", "Leeds", "Ghent", "Trieste", "Malmo")
STATUSES = ("pending", "shipped", "delivered", "delivered", "returned")

# The handbook: what its lines say, with the values that a world draws. One line, one fact.
HANDBOOK: dict[str, tuple[str, ...]] = {
    "travel.md": (
        "Meals on business trips are paid up to {meals} EUR a day.",
        "A hotel night may cost up to {hotel} EUR.",
        "Kilometres in your own car are paid at {kilometre} EUR each.",
        "Trips of more than {trip} days need the approval of {approver}.",
        "Hand in receipts within {receipts} days of your return.",
    ),
    "leave.md": (
        "Full-time staff have {leave} days of paid leave a year.",
        "Ask for leave at least {notice} weeks before it starts.",
        "Up to {carry} unused days of leave move to the next year.",
        "Sick leave of more than {sick} days needs a doctor's note.",
    ),
    "shipping.md": (
        "Standard delivery takes {standard} days, express delivery {express} days.",
        "Orders of {free} EUR or more are delivered free of charge.",
        "Parcels heavier than {parcel} kg travel by freight.",
    ),
    "returns.md": (
        "Goods can be returned within {returns} days of delivery.",
        "Opened goods carry a restocking fee of {restocking} percent.",
        "Refunds are paid within {refund} days.",
    ),
    "warehouse.md": (
        "Reorder a product when fewer than {reorder} pieces are in stock.",
        "A shelf carries at most {shelf} kg.",
        "Forklifts are inspected every {forklift} months by {inspector}.",
    ),
    "equipment.md": (
        "Laptops are replaced every {laptop} years.",
        "The allowance for a desk at home is {desk} EUR.",
        "Report a lost phone to {security} within {phone} hours.",
    ),
}
RANGES: dict[str, tuple[float, ...]] = {
    "meals": (28, 32, 35, 38, 42, 45, 48, 54),
    "hotel": (95, 110, 120, 135, 140, 150, 165),
    "kilometre": (0.28, 0.3, 0.32, 0.35, 0.38, 0.42),
    "trip": (4, 5, 7, 10),
    "receipts": (10, 14, 21, 30),
    "leave": (24, 25, 26, 27, 28, 30),
    "notice": (2, 3, 4, 6),
    "carry": (3, 5, 6, 8),
    "sick": (2, 3, 4),
    "standard": (3, 4, 5, 6, 7),
    "express": (1, 2),
    "free": (50, 75, 80, 100, 150),
    "parcel": (20, 25, 30, 32),
    "returns": (14, 21, 28, 30, 45, 60),
    "restocking": (5, 8, 10, 12, 15),
    "refund": (6, 9, 11),
    "reorder": (8, 10, 12, 15, 20),
    "shelf": (180, 220, 250, 300, 400),
    "forklift": (3, 6, 9),
    "laptop": (3, 4, 5),
    "desk": (150, 200, 250, 320, 400),
    "phone": (2, 4, 12, 24),
}
PEOPLE = ("the finance lead", "the head of operations", "the team lead", "the facilities manager", "the duty officer")


@dataclass
class World:
    """One shop's open database, the folder of its handbook, and what went into both."""

    shop: str
    database: sqlite3.Connection
    folder: Path
    products: list[dict[str, Any]] = field(default_factory=list)
    customers: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def make_world(rng: random.Random, folder: Path) -> World:
    """A shop with its own stock, customers and orders in SQLite, and its handbook as files in the empty `folder`."""
    shop = rng.choice(list(SHOPS))
    world = World(shop, sqlite3.connect(":memory:"), folder)
    for number, (name, category, low, high) in enumerate(rng.sample(SHOPS[shop], len(SHOPS[shop])), 1):
        price = rng.randrange(low * 20, high * 20) * 5 / 100
        world.products.append(
            {"id": number, "name": name, "category": category, "price": price, "stock": rng.randint(0, 60)}
        )
    for number, name in enumerate(rng.sample(CUSTOMERS, 6), 1):
        world.customers.append({"id": number, "name": name, "city": rng.choice(CITIES)})
    first_order, first_day = rng.randrange(1000, 9000), date(2024, 1, 8)
    for number in range(rng.randint(14, 20)):
        first_day += timedelta(days=rng.randint(1, 24))
        order = {
            "id": first_order + number,
            "customer_id": rng.randint(1, len(world.customers)),
            "product_id": rng.randint(1, len(world.products) - 1),  # the last product is never sold
            "quantity": rng.randint(1, 9),
            "ordered_on": first_day.isoformat(),
            "status": rng.choice(STATUSES),
        }
        world.orders.append(order)
    world.orders[-1]["status"], world.orders[-2]["status"] = "pending", "shipped"  # every world has both
    fill_database(world)
    world.facts = {key: rng.choice(values) for key, values in RANGES.items()}
    world.facts |= {role: rng.choice(PEOPLE) for role in ("approver", "inspector", "security")}
    write_files(folder, HANDBOOK, world.facts)
    return world


def fill_database(world: World) -> None:
    """The world's products, customers and orders as tables; after this the tables are the truth."""
    world.database.executescript(
        """
        CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price REAL, stock INTEGER);
        CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
        CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER, quantity INTEGER,
                             ordered_on TEXT, status TEXT);
        """
    )
    insert = world.database.executemany
    insert("INSERT INTO products VALUES (:id, :name, :category, :price, :stock)", world.products)
    insert("INSERT INTO customers VALUES (:id, :name, :city)", world.customers)
    insert("INSERT INTO orders VALUES (:id, :customer_id, :product_id, :quantity, :ordered_on, :status)", world.orders)


def write_files(folder: Path, documents: dict[str, tuple[str, ...]], facts: dict[str, Any]) -> None:
    """The documents, one fact a line, with the facts filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in documents.items():
        text = "".join(line.format(**facts) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
