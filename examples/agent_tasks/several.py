"""Tasks whose calls do not wait for each other: several tools in one message."""

from __future__ import annotations

from datetime import timedelta

from agent_tasks.episode import Episode, listing
from agent_tasks.office import a_day


def stock_of_several(ep: Episode) -> None:
    """The stock of three products, in three calls at once."""
    products = ep.rng.sample(ep.world.products, 3)
    ep.ask(
        "[How many pieces of the {items} do we have?|I need the stock of the {items}.|What is in stock of the "
        "{items}?]",
        "the stock of three products",
        items=listing([product["name"] for product in products], " and the ", ", the "),
    )
    query = "SELECT name, stock FROM products WHERE name = '{}'"
    rows = ep.parallel(
        "[The three look-ups do not depend on each other, so I make them together.|Three independent queries at once.]",
        *(("sql", {"query": query.format(product["name"])}) for product in products),
    )
    ep.answer(
        "[All three are there.|I have the three counts.]",
        "[In stock: {stocks}.|We have {stocks}.]",
        stocks=listing([f"{row[0]['stock']} of the {row[0]['name']}" for row in rows]),
    )


def several_units(ep: Episode) -> None:
    """The sides of a box, converted at once, and its volume."""
    sides = [ep.rng.randint(8, 70) for _ in range(3)]
    ep.ask(
        "[A crate measures {a} x {b} x {c} inches. What are its sides in cm, and its volume in litres?|My box is {a} "
        "by {b} by {c} inches. I need the sides in cm and the volume in litres.]",
        "a box's sides in cm and its volume in litres",
        **dict(zip("abc", sides, strict=True)),
    )
    results = ep.parallel(
        "[I convert the three sides together.|Three conversions, none of which needs another.]",
        *(("convert_units", {"value": side, "from_unit": "inch", "to_unit": "cm"}) for side in sides),
    )
    volume = ep.call(
        "[A litre is 1000 cubic centimetres, so I multiply the sides and divide by 1000.|Now the volume: the product "
        "of the sides over 1000.]",
        "calculator",
        expression=f"round({' * '.join(map(str, results))} / 1000, 1)",
    )
    ep.answer(
        "[The volume is {volume} litres.|{volume} litres.]",
        "[The sides are {sides} cm and the volume is {volume} litres.|{sides} cm, which holds {volume} litres.]",
        volume=volume,
        sides=" x ".join(map(str, results)),
    )


def several_days(ep: Episode) -> None:
    """The weekdays of three dates at once."""
    days = sorted((a_day(ep) + timedelta(days=ep.rng.randint(0, 90))).isoformat() for _ in range(3))
    ep.ask(
        "[On which weekdays do {days} fall?|I plan workshops on {days}. Which weekdays are these?|Weekdays of "
        "{days}, please.]",
        "the weekdays of three dates",
        days=listing(days),
    )
    names = ep.parallel(
        "[Three dates, three calls at once.|I can ask for all three weekdays in one go.]",
        *(("weekday", {"date": day}) for day in days),
    )
    ep.answer(
        "[All three are known.|Now I list them.]",
        "{list}.",
        list=listing([f"{day} is a {name}" for day, name in zip(days, names, strict=True)]),
    )


def several_currencies(ep: Episode) -> None:
    """A price list in three currencies at once."""
    product = ep.rng.choice(ep.world.products)
    codes = ep.rng.sample(("USD", "GBP", "CHF", "SEK", "PLN", "CAD", "JPY", "CNY"), 3)
    ep.ask(
        "[For a price list: what does the {item} cost in {codes}?|I need the price of the {item} in {codes}.]",
        "the price of the {item} in three currencies",
        item=product["name"],
        codes=listing(codes),
    )
    price = ep.sql(
        "[Its price in EUR comes first.|I look up the price.]",
        "SELECT price FROM products WHERE name = {}",
        product["name"],
    )[0]["price"]
    ep.note(price=price)
    amounts = ep.parallel(
        "[{price} EUR, into three currencies at once.|Now the three conversions of {price} EUR together.]",
        *(("convert_currency", {"amount": price, "base": "EUR", "quote": code}) for code in codes),
    )
    ep.answer(
        "[I have all the prices.|That is the whole list.]",
        "[The {item} costs {list} ({price} EUR).|{list}; our own price is {price} EUR.]",
        list=listing([f"{amount} {code}" for amount, code in zip(amounts, codes, strict=True)]),
    )


def several_rates(ep: Episode) -> None:
    """The exchange rates of three currencies at once."""
    base, *codes = ep.rng.sample(("EUR", "USD", "GBP", "CHF", "SEK", "PLN", "CAD", "CNY"), 4)
    ep.ask(
        "[What are the rates of {base} to {codes}?|How much is one {base} in {codes}?|I need the rates of {base} "
        "against {codes}.]",
        "the rates of {base} to three currencies",
        base=base,
        codes=listing(codes),
    )
    rates = ep.parallel(
        "[Three rates, three calls together.|None of the three rates depends on another.]",
        *(("exchange_rate", {"base": base, "quote": code}) for code in codes),
    )
    ep.answer(
        "[I have the three rates.|All three came back.]",
        "[One {base} is {list}.|The rates of {base} are: {list}.]",
        list=listing([f"{rate} {code}" for rate, code in zip(rates, codes, strict=True)]),
    )


def two_rules(ep: Episode) -> None:
    """Two rules of the handbook, read at once."""
    facts = ep.world.facts
    ep.ask(
        "[How long may goods be returned, and from what value is delivery free?|A customer asks about returns and free "
        "delivery. What are our rules?|Please tell me our return period and the limit for free delivery.]",
        "the return period and the limit for free delivery",
        days=facts["returns"],
        free=facts["free"],
    )
    ep.parallel(
        "[Two files hold these rules; I read both.|returns.md and shipping.md, at once.]",
        ("read_file", {"path": "returns.md"}),
        ("read_file", {"path": "shipping.md"}),
    )
    ep.answer(
        "[Both rules are there.|I found both.]",
        "[Goods can be returned within {days} days, and delivery is free from {free} EUR.|The return period is "
        "{days} days; orders of {free} EUR or more are delivered free.]",
    )


def order_delivery(ep: Episode) -> None:
    """When an order should arrive: the order, the handbook's delivery time and the calendar."""
    order = ep.rng.choice(ep.world.orders)["id"]
    ep.ask(
        "[When should order {order} have arrived with standard delivery?|On which date is standard delivery of order "
        "{order} due?]",
        "the delivery date of order {order}",
        order=order,
    )
    found, _ = ep.parallel(
        "[I need the order's date and the delivery time; both at once.|The order and the rule are independent "
        "look-ups.]",
        ("get_order", {"order_id": order}),
        ("search_files", {"query": "standard delivery"}),
    )
    ep.note(ordered=found["ordered_on"], days=ep.world.facts["standard"])
    due = ep.call(
        "[Ordered on {ordered}, {days} days to deliver.|{days} days after {ordered}.]",
        "add_days",
        date=found["ordered_on"],
        days=ep.world.facts["standard"],
    )
    ep.answer(
        "[It is {due}.|The date is {due}.]",
        "[Standard delivery of order {order} was due on {due}, {days} days after {ordered}.|By {due}: it was ordered "
        "on {ordered} and delivery takes {days} days.]",
        due=due,
    )


def recipe(ep: Episode) -> None:
    """A recipe's quantities in other units at once."""
    pairs = (("ounce", "g"), ("cup", "ml"), ("fahrenheit", "celsius"))
    values = [ep.rng.randint(4, 20), ep.rng.randint(2, 6), ep.rng.choice((325, 350, 375, 400, 425))]
    ep.ask(
        "[A recipe takes {a} ounces of flour and {b} cups of milk and bakes at {c} degrees Fahrenheit. What is that "
        "in g, ml and Celsius?|Please convert my recipe: {a} ounces of flour to g, {b} cups of milk to ml, {c} "
        "degrees Fahrenheit to Celsius.]",
        "a recipe in metric units",
        **dict(zip("abc", values, strict=True)),
    )
    results = ep.parallel(
        "[Three conversions, all independent.|I convert flour, milk and temperature in one go.]",
        *(
            ("convert_units", {"value": value, "from_unit": first, "to_unit": second})
            for value, (first, second) in zip(values, pairs, strict=True)
        ),
    )
    ep.answer(
        "[I have all three.|The recipe is converted.]",
        "[{g} g of flour, {ml} ml of milk, at {celsius} degrees Celsius.|Take {g} g of flour and {ml} ml of milk, "
        "and bake at {celsius} degrees Celsius.]",
        **{second: result for (_, second), result in zip(pairs, results, strict=True)},
    )
