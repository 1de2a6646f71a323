"""Tasks for tool calling: several tools at once, tools that change something, and users who come back."""

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


def cancel(ep: Episode) -> None:
    """The user wants to cancel a pending order: look, ask, and cancel on a yes."""
    order = ep.rng.choice([order for order in ep.world.orders if order["status"] == "pending"])["id"]
    ep.ask(
        "[Please cancel my order {order}.|I would like to cancel order {order}.|Order {order} is no longer needed, "
        "can you cancel it?]",
        "to cancel order {order}",
        order=order,
    )
    found = ep.call(
        "[I look at the order before I change anything.|First the order's status; only pending orders can be "
        "cancelled.]",
        "get_order",
        order_id=order,
    )
    ep.answer(
        "[It is pending, so it can be cancelled; I ask for a confirmation first.|Cancelling cannot be undone, so the "
        "user should confirm.]",
        "[Order {order} is still pending: {quantity} x {product}. Shall I cancel it?|I found order {order} "
        "({quantity} x {product}), still pending. Do you want me to cancel it?]",
        **{key: found[key] for key in ("quantity", "product")},
    )
    ep.ask("[Yes, please.|Yes, cancel it.|Go ahead.|Yes.]", "to go ahead")
    ep.call("[The user agreed.|That is a clear yes, so I cancel it.]", "cancel_order", order_id=order)
    ep.answer(
        "[It is cancelled now.|The tool confirms the cancellation.]",
        "[Order {order} is cancelled.|Done: order {order} has been cancelled.]",
    )


def too_late(ep: Episode) -> None:
    """The order has left: the tool refuses, and the agent says what is possible instead."""
    order = ep.rng.choice([order for order in ep.world.orders if order["status"] == "shipped"])["id"]
    ep.ask(
        "[Cancel order {order}, please. Yes, I am sure.|I have decided: please cancel order {order} right away.]",
        "to cancel order {order} at once",
        order=order,
    )
    ep.call(
        "[The user is certain, so I try it directly.|A confirmed wish; I cancel the order.]",
        "cancel_order",
        order_id=order,
    )
    ep.call(
        "[It has been shipped already. What are the rules for a return?|Too late to cancel; a return may be possible.]",
        "search_files",
        query="returned",
    )
    ep.answer(
        "[I explain why not, and offer the return.|A return is the way out.]",
        "[Order {order} has already been shipped and can no longer be cancelled. You can return it within {days} "
        "days of delivery.|I am sorry, order {order} is on its way. It can be sent back within {days} days of "
        "delivery, though.]",
        days=ep.world.facts["returns"],
    )


def change_quantity(ep: Episode) -> None:
    """More pieces than there are: the tool refuses with the stock, and the user settles for less."""
    order = ep.rng.choice([order for order in ep.world.orders if order["status"] == "pending"])
    stock = ep.world.products[order["product_id"] - 1]["stock"]
    ep.ask(
        "[Please raise order {order} to {n} pieces.|Can you change the quantity of order {order} to {n}?|I need {n} "
        "pieces in order {order} instead.]",
        "to have {n} pieces in order {order}",
        order=order["id"],
        n=stock + ep.rng.randint(1, 30),
    )
    ep.call(
        "[I set the new quantity.|set_quantity changes pending orders.]",
        "set_quantity",
        order_id=order["id"],
        quantity=ep.values["n"],
    )
    ep.answer(
        "[There are not enough pieces; the user has to decide.|The stock does not allow it, so I ask.]",
        "[We have only {stock} in stock. Would you like a smaller quantity?|That is more than the {stock} in stock. "
        "What quantity shall I set instead?]",
        stock=stock,
    )
    fewer = ep.rng.randint(1, max(1, stock))
    ep.ask(
        "[Then {fewer}, please.|All right, make it {fewer}.|{fewer} will do.]", "to have {fewer} pieces", fewer=fewer
    )
    done = ep.call(
        "[{fewer} is within the stock.|Now with {fewer}.]", "set_quantity", order_id=order["id"], quantity=fewer
    )
    if ep.exchanges[-1].steps[-1].failed:
        ep.answer(
            "[The product is sold out.|Nothing is left of it.]",
            "[I am sorry, this product is sold out, with {stock} left; the order stays as it is.|That is not "
            "possible either: {stock} pieces are left.]",
        )
    else:
        ep.answer(
            "[The order is changed.|The tool confirms it and gives the total.]",
            "[Order {order} now has {fewer} pieces, {total} EUR in total.|Done: {fewer} pieces, {total} EUR in total.]",
            total=done["total"],
        )


def unknown_order(ep: Episode) -> None:
    """A wrong order number, and the right one after a question."""
    order = ep.rng.choice(ep.world.orders)["id"]
    ep.ask(
        "[Where is my order {wrong}?|What is the status of order {wrong}?|Has order {wrong} been shipped?]",
        "the status of order {wrong}",
        wrong=order + 500,
    )
    ep.call("[I look up the order.|get_order knows the status.]", "get_order", order_id=order + 500)
    ep.answer(
        "[There is no such order; perhaps the number is mistyped.|The number is unknown, so I ask for it again.]",
        "[I cannot find order {wrong}. Could you check the number?|There is no order {wrong} here. Is the number "
        "right?]",
    )
    ep.ask(
        "[Sorry, it is {order}.|My mistake, {order}.|I meant {order}.]",
        "the status of order {order} instead",
        order=order,
    )
    found = ep.call("[Again with {order}.|Now the right number.]", "get_order", order_id=order)
    ep.answer(
        "[This one exists and is {status}.|It is {status}.]",
        "[Order {order} ({quantity} x {product}) of {ordered_on} is {status}.|It is {status}: {quantity} x "
        "{product}, ordered on {ordered_on}.]",
        **{key: found[key] for key in ("quantity", "product", "ordered_on", "status")},
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
