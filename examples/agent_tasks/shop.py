"""Tasks on a shop's database. A task may return a follow-up: a function that adds a second question and its answer."""

from __future__ import annotations

from collections.abc import Callable

from agent_tasks.episode import Episode, listing

FollowUp = Callable[[], None]


def discount(ep: Episode) -> FollowUp:
    """The price of several pieces with a discount."""
    product = ep.rng.choice(ep.world.products)
    ep.ask(
        "[What do {n} pieces of the {item} cost|How much are {n} pieces of the {item}|What would I pay for {n} "
        "pieces of the {item}] [after|with] a {percent}% discount?",
        "what {n} pieces of the {item} cost with {percent}% off",
        item=product["name"],
        n=ep.rng.randint(2, 15),
        percent=ep.rng.choice((5, 8, 10, 12, 15, 20, 25)),
    )
    rows = ep.sql(
        "[I need|First I need|I should look up] the price of the {item}[, which the products table holds|; it is in "
        "the products table|].",
        "SELECT price FROM products WHERE name = {}",
        product["name"],
    )
    price = rows[0]["price"]
    ep.note(price=price)
    total = ep.call(
        "One piece costs {price} EUR[, so I can compute the total|. Now {n} times that, less {percent} percent"
        "|; I multiply by {n} and take off {percent} percent].",
        "calculator",
        expression=f"round({ep.values['n']} * {price} * (1 - {ep.values['percent']} / 100), 2)",
    )
    ep.answer(
        "[The calculator gives {total} EUR|The total is {total} EUR|That makes {total} EUR], [which is what was asked"
        "|so I can answer|and nothing else is needed].",
        "[{n} pieces of the {item} cost {total} EUR with the {percent}% discount.|With {percent}% off, {n} pieces of "
        "the {item} come to {total} EUR.|The total is {total} EUR: {n} pieces at {price} EUR each, less {percent}%.]",
        total=total,
    )

    def more() -> None:
        ep.ask(
            "[And if I take {m} pieces instead?|What about {m} pieces, with the same discount?|And for {m} of them?]",
            "the same price for {m} pieces",
            m=ep.values["n"] + ep.rng.randint(2, 20),
        )
        total = ep.call(
            "[I know the price already: {price} EUR.|The price is still {price} EUR.] [Only the quantity "
            "changes|Just the number of pieces is new], so the calculator is enough.",
            "calculator",
            expression=f"round({ep.values['m']} * {price} * (1 - {ep.values['percent']} / 100), 2)",
        )
        ep.answer(
            "[The new total is {total} EUR.|{m} pieces make {total} EUR.]",
            "[{m} pieces come to {total} EUR.|Then it is {total} EUR in all.|For {m} pieces you would pay {total} "
            "EUR.]",
            total=total,
        )

    return more


def category_stock(ep: Episode) -> FollowUp:
    """How much of a category is in stock; then which of it is the cheapest."""
    category = ep.rng.choice(ep.world.products)["category"]
    ep.ask(
        "[How many|What number of] pieces [from|of] the category '{category}' [do we have in stock|are in stock|are "
        "on our shelves]?",
        "the stock of the category '{category}'",
        category=category,
    )
    rows = ep.sql(
        "[Stock is a column of products, so I sum it over the category.|I can add up the stock of all products of this "
        "category in one query.|A sum over products with category '{category}' will tell.]",
        "SELECT SUM(stock) AS pieces FROM products WHERE category = {}",
        category,
    )
    ep.answer(
        "[The sum is {pieces}.|The query gives {pieces} pieces.|There are {pieces} in all.]",
        "[We have {pieces} pieces of '{category}' in stock.|{pieces} pieces from '{category}' are in stock.|The "
        "stock of '{category}' is {pieces} pieces.]",
        pieces=rows[0]["pieces"],
    )

    def cheapest() -> None:
        ep.ask(
            "[Which of them is the cheapest?|And what is the cheapest product among them?|What is the lowest price "
            "there?]",
            "the cheapest product of '{category}'",
        )
        rows = ep.sql(
            "[I sort the same category by price.|Now the same category, cheapest first.]",
            "SELECT name, price FROM products WHERE category = {} ORDER BY price LIMIT 1",
            category,
        )
        ep.answer(
            "[It is the {name}.|The first row is the {name}.]",
            "[The {name}, at {price} EUR.|The cheapest is the {name}: {price} EUR.|That is the {name} for {price} "
            "EUR.]",
            **rows[0],
        )

    return cheapest


def low_stock(ep: Episode) -> None:
    """Which products are nearly sold out."""
    low = sorted(product["stock"] for product in ep.world.products)[ep.rng.randint(1, 3)] + 1
    ep.ask(
        "Which products [have fewer than {low} pieces in stock|are down to fewer than {low} pieces|are running low, "
        "that is, below {low} pieces]?",
        "which products have fewer than {low} pieces left",
        low=low,
    )
    rows = ep.sql(
        "[I filter products by stock.|A query on products with stock below {low} answers this.|I look for stock under "
        "{low} and sort by it.]",
        "SELECT name, stock FROM products WHERE stock < {} ORDER BY stock, name",
        low,
    )
    ep.answer(
        "[These are all of them.|The list is complete, so I can answer.|I have the names and the counts.]",
        "[Below {low} pieces|Fewer than {low} pieces are left of|Running low]: {items}.",
        items=listing([f"{row['name']} ({row['stock']})" for row in rows], ", "),
    )


def best_customer(ep: Episode) -> FollowUp:
    """Who spent the most; then where they live."""
    ep.ask(
        "[Which customer of {shop} has spent the most|Who is the best customer of {shop} by money spent|Whose orders "
        "at {shop} are worth the most], [and how much is it|and how much was that|with what total]?",
        "which customer spent the most, and how much",
        shop=ep.world.shop,
    )
    rows = ep.sql(
        "[I join orders with customers and products and sum quantity times price.|The amount is quantity times price, "
        "summed for each customer.|This takes a join of the tables, grouped by customer.]",
        "SELECT c.name, ROUND(SUM(o.quantity * p.price), 2) AS spent FROM orders o JOIN customers c ON c.id = "
        "o.customer_id JOIN products p ON p.id = o.product_id GROUP BY c.id ORDER BY spent DESC LIMIT 1",
    )
    ep.answer(
        "[The top row is {name}.|{name} comes first.|It is {name}, with {spent} EUR.]",
        "[{name} has spent the most: {spent} EUR.|{name}, with orders worth {spent} EUR.|Our best customer is "
        "{name}, who spent {spent} EUR.]",
        **rows[0],
    )

    def city() -> None:
        ep.ask("[Where is that customer based?|Which city is that in?|And the city?]", "the city of {name}")
        rows = ep.sql(
            "[The city is in customers.|I look up {name} in customers.]",
            "SELECT city FROM customers WHERE name = {}",
            ep.values["name"],
        )
        ep.answer("The city is {city}.", "[{name} is based in {city}.|In {city}.|That is {city}.]", **rows[0])

    return city


def month_share(ep: Episode) -> None:
    """What share of all sales fell into one month."""
    month = ep.rng.choice(ep.world.orders)["ordered_on"][:7]
    ep.ask(
        "[What percentage of our total sales was ordered in {month}?|Which share of all sales, in percent, fell into "
        "{month}?|What share of total sales, in percent, did {month} bring?]",
        "which percentage of all sales was ordered in {month}",
        month=month,
    )
    total = "SELECT ROUND(SUM(o.quantity * p.price), 2) AS sales FROM orders o JOIN products p ON p.id = o.product_id"
    part = ep.sql(
        "[First the sales of that month.|I start with the month itself.|I need the month's sales and the total; the "
        "month comes first.]",
        total + " WHERE o.ordered_on LIKE {}",
        f"{month}-%",
    )[0]["sales"]
    ep.note(part=part)
    whole = ep.sql("[{part} EUR in the month.|The month made {part} EUR.] Now the sales of all time.", total)[0][
        "sales"
    ]
    ep.note(whole=whole)
    share = ep.call(
        "[All sales are {whole} EUR|In total it is {whole} EUR], so the share is {part} divided by {whole}.",
        "calculator",
        expression=f"round({part} / {whole} * 100, 1)",
    )
    ep.answer(
        "[The share is {share} percent.|That is {share} percent.]",
        "[{share}% of sales were ordered in {month}: {part} EUR of {whole} EUR.|{month} brought {share}% of all sales "
        "({part} EUR of {whole} EUR).|The share of {month} is {share}%.]",
        share=share,
    )


def reorder_cost(ep: Episode) -> None:
    """What it costs, in another currency, to fill a product up to a target."""
    product = ep.rng.choice(ep.world.products)
    code = ep.rng.choice(("USD", "GBP", "CHF", "SEK", "PLN"))
    ep.ask(
        "[We want {target} pieces of the {item} in stock. What do the missing ones cost, in {code}, at our own "
        "price?|How much, in {code}, would it take to fill the {item} up to {target} pieces at list price?]",
        "what it costs in {code} to fill the {item} up to {target} pieces",
        item=product["name"],
        code=code,
        target=product["stock"] + ep.rng.randint(5, 40),
    )
    row = ep.sql(
        "[I need stock and price of the {item}.|First, how many are there and what does one cost?]",
        "SELECT stock, price FROM products WHERE name = {}",
        product["name"],
    )[0]
    ep.note(**row)
    euros = ep.call(
        "[There are {stock}, so {target} minus {stock} are missing, at {price} EUR each.|{stock} are there; the rest "
        "has to be bought at {price} EUR.]",
        "calculator",
        expression=f"round(({ep.values['target']} - {row['stock']}) * {row['price']}, 2)",
    )
    ep.note(euros=euros)
    amount = ep.call(
        "[That is {euros} EUR; the question wants {code}.|{euros} EUR. Now into {code}.]",
        "convert_currency",
        amount=euros,
        base="EUR",
        quote=code,
    )
    ep.answer(
        "[{euros} EUR are {amount} {code}.|I have the amount in {code}.]",
        "[Filling up the {item} costs {amount} {code} ({euros} EUR).|It takes {amount} {code}, that is {euros} EUR.]",
        amount=amount,
    )


def within_budget(ep: Episode) -> None:
    """The dearest product that a budget allows, and what is left of it."""
    budget = ep.rng.choice(sorted(product["price"] for product in ep.world.products)[2:])
    ep.ask(
        "[What is the most expensive product I can buy with {budget} EUR, and how much would be left?|I have "
        "{budget} EUR. Which is the dearest product I can afford, and what remains?]",
        "the dearest product for {budget} EUR, and the rest",
        budget=int(budget) + ep.rng.randint(1, 9),
    )
    row = ep.sql(
        "[I sort the products that cost at most {budget} EUR by price.|The dearest one within {budget} EUR is the "
        "first of a descending sort.]",
        "SELECT name, price FROM products WHERE price <= {} ORDER BY price DESC LIMIT 1",
        ep.values["budget"],
    )[0]
    ep.note(**row)
    rest = ep.call(
        "[It is the {name} for {price} EUR. What remains?|The {name} costs {price} EUR; I subtract.]",
        "calculator",
        expression=f"round({ep.values['budget']} - {row['price']}, 2)",
    )
    ep.answer(
        "[{rest} EUR remain.|The rest is {rest} EUR.]",
        "[The {name} for {price} EUR; {rest} EUR would be left.|You can buy the {name} at {price} EUR and keep "
        "{rest} EUR.]",
        rest=rest,
    )
