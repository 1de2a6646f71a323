"""Tasks that need a rule of the handbook and the shop's database to apply it to."""

from __future__ import annotations

from agent_tasks.episode import Episode, listing
from agent_tasks.handbook import LOOK, fact


def refund(ep: Episode) -> None:
    """What an opened order brings back, in another currency: four steps."""
    order = ep.rng.choice(ep.world.orders)["id"]
    ep.ask(
        "[Order {order} came back opened. How much do we refund, in {code}?|The customer sends order {order} back, "
        "opened. What is the refund in {code} after the restocking fee?]",
        "what order {order} brings back in {code} when it was opened",
        order=order,
        code=ep.rng.choice(("USD", "GBP", "CHF", "PLN", "CAD")),
        words="restocking",
    )
    total = ep.sql(
        "[First what the order was worth.|I start with the value of order {order}.]",
        "SELECT ROUND(o.quantity * p.price, 2) AS total FROM orders o JOIN products p ON p.id = o.product_id WHERE "
        "o.id = {}",
        order,
    )[0]["total"]
    ep.note(total=total)
    percent = fact(
        ep, "restocking", "[It was {total} EUR. Now the fee.|{total} EUR; the handbook knows the fee.]", "restocking"
    )
    ep.note(percent=percent)
    euros = ep.call(
        "[The fee is {percent} percent, so I take that off.|{percent} percent of {total} EUR stay with us.]",
        "calculator",
        expression=f"round({total} * (1 - {percent} / 100), 2)",
    )
    ep.note(euros=euros)
    amount = ep.call(
        "[{euros} EUR, to be paid in {code}.|That leaves {euros} EUR; now into {code}.]",
        "convert_currency",
        amount=euros,
        base="EUR",
        quote=ep.values["code"],
    )
    ep.answer(
        "[The refund is {amount} {code}.|That is {amount} {code}.]",
        "[We refund {amount} {code}: {euros} EUR after the fee of {percent} percent.|The refund is {amount} {code} "
        "({euros} EUR of {total} EUR).]",
        amount=amount,
    )


def reorder_list(ep: Episode) -> None:
    """Which products the handbook's rule says to reorder."""
    ep.ask(
        "[Which products must {shop} reorder by its own rule?|By the handbook's rule, what do we have to reorder "
        "now?|Check the reorder rule of {shop} and list the products it applies to.]",
        "which products fall under the reorder rule",
        words="reorder",
        shop=ep.world.shop,
    )
    level = fact(ep, "reorder", LOOK, "reorder")
    ep.note(level=level)
    rows = ep.sql(
        "[Fewer than {level} pieces. Now the stock.|The level is {level}, so I query products below it.]",
        "SELECT name, stock FROM products WHERE stock < {} ORDER BY stock, name",
        level,
    )
    if rows:
        ep.answer(
            "[These are below {level}.|The query lists them all.]",
            "[Reorder, with fewer than {level} pieces left|Below {level} pieces]: {items}.",
            items=listing([f"{row['name']} ({row['stock']})" for row in rows], ", "),
        )
    else:
        ep.answer(
            "[The result is empty: nothing is below {level}.|No product is that low.]",
            "[Nothing has to be reordered: no product has fewer than {level} pieces.|No product is below {level} "
            "pieces.]",
        )


def free_delivery(ep: Episode) -> None:
    """Whether an order is delivered free: its total from the database against the handbook's limit."""
    order = ep.rng.choice(ep.world.orders)["id"]
    ep.ask(
        "[Is order {order} delivered free of charge?|Does order {order} get free delivery?|Do we charge delivery for "
        "order {order}?]",
        "whether order {order} is delivered free",
        order=order,
        words="free of charge",
    )
    total = ep.sql(
        "[First the value of the order.|I compute what order {order} is worth.]",
        "SELECT ROUND(o.quantity * p.price, 2) AS total FROM orders o JOIN products p ON p.id = o.product_id WHERE "
        "o.id = {}",
        order,
    )[0]["total"]
    ep.note(total=total)
    limit = fact(
        ep,
        "free",
        "[It is worth {total} EUR. What does the handbook ask for?|{total} EUR; now the limit for free delivery.]",
        "free of charge",
    )
    if total >= limit:
        ep.answer(
            "[{total} is at least {limit}, so it is free.|The limit of {limit} EUR is reached.]",
            "[Order {order} is delivered free: its {total} EUR reach the limit of {limit} EUR.|No charge: {total} "
            "EUR is not below {limit} EUR.]",
            limit=limit,
        )
    else:
        ep.answer(
            "[{total} is below {limit}, so it is not free.|The limit of {limit} EUR is not reached.]",
            "[Order {order} is not delivered free: {total} EUR is below the limit of {limit} EUR.|Delivery is "
            "charged, since {total} EUR does not reach {limit} EUR.]",
            limit=limit,
        )
