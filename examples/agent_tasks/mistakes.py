"""Tasks in which a tool refuses: the agent reads the error, and corrects itself or says what cannot be done."""

from __future__ import annotations

from agent_tasks.episode import Episode

COUNT = "SELECT COUNT(*) AS n FROM {table}"
ONE_PRODUCT = "SELECT {column} FROM products WHERE name = {{}}"


def wrong_table(ep: Episode) -> None:
    """The agent guesses a table's name, reads the error and looks at the schema."""
    ep.blind = True
    wrong, right, thing = ep.rng.choice(
        (("clients", "customers", "customers"), ("items", "products", "products"), ("sales", "orders", "orders"))
    )
    ep.ask(
        "[How many {thing} are in the database of {shop}?|Count the {thing} in {shop}'s database, please.|How many "
        "{thing} does the database hold?]",
        "the number of {thing} in the database",
        thing=thing,
        wrong=wrong,
        right=right,
        shop=ep.world.shop,
    )
    ep.sql(
        "[I do not know the tables yet; {wrong} is a likely name.|Perhaps there is a table called {wrong}.|I try to "
        "count the rows of {wrong}.]",
        COUNT.format(table=wrong),
    )
    ep.sql(
        "[There is no such table, so I list the tables that exist.|That name is wrong. sqlite_master knows the tables."
        "|The table does not exist; I should look at the schema instead of guessing.]",
        "SELECT name FROM sqlite_master WHERE type = 'table'",
    )
    rows = ep.sql(
        "[The table is called {right}.|It is {right}; now I can count.|I see a table {right}, which must be the one.]",
        COUNT.format(table=right),
    )
    ep.answer(
        "[The count is {n}.|The query worked: {n}.|There are {n} rows.]",
        "[The database holds {n} {thing}.|There are {n} {thing}.|{n} {thing} are in the database.]",
        **rows[0],
    )


def wrong_column(ep: Episode) -> None:
    """The agent guesses a column's name, reads the error and asks for the columns."""
    ep.blind = True
    product = ep.rng.choice(ep.world.products)
    wrong, right, question = ep.rng.choice(
        (
            ("cost", "price", "[What does the {item} cost?|What is the price of the {item}?]"),
            ("quantity", "stock", "[How many pieces of the {item} are left?|What is the stock of the {item}?]"),
            ("inventory", "stock", "[How many of the {item} do we have?|How much of the {item} is in stock?]"),
        )
    )
    ep.ask(question, f"the {right} of the {{item}}", item=product["name"])
    ep.sql(
        "[A table products probably has what I need.|I query products for the {item}.|Let me ask products for it.]",
        ONE_PRODUCT.format(column=wrong),
        product["name"],
    )
    ep.sql(
        "[The column has another name. I look at the columns of products.|No such column, so I ask which columns there "
        "are.|I guessed the column wrongly; the table's description will help.]",
        "SELECT name FROM pragma_table_info('products')",
    )
    rows = ep.sql(
        f"[The column is {right}.|It is called {right}.|{right} is what I want.]",
        ONE_PRODUCT.format(column=right),
        product["name"],
    )
    unit = {"price": "EUR", "stock": "pieces"}[right]
    ep.answer(
        "[Now I have it.|The value is {value}.|That worked.]",
        {
            "price": "[The {item} costs {value} EUR.|It costs {value} EUR.|The price of the {item} is {value} EUR.]",
            "stock": "[We have {value} pieces of the {item}.|{value} pieces of the {item} are left.|Stock of the "
            "{item}: {value} pieces.]",
        }[right],
        value=rows[0][right],
        unit=unit,
    )


def return_rate(ep: Episode) -> None:
    """A rate over zero orders: the division fails, and the agent says why there is no rate."""
    product = ep.rng.choice(ep.world.products[-1:] * 2 + ep.world.products[:-1])
    ep.ask(
        "[What share of the orders for the {item} was returned, in percent?|What is the return rate of the {item} in "
        "percent?|What percentage of the {item} orders came back?]",
        "the return rate of the {item}",
        item=product["name"],
    )
    row = ep.sql(
        "[I count the orders and the returned ones.|Two counts are needed: all orders of the {item}, and those "
        "returned.]",
        "SELECT COUNT(*) AS orders, COUNT(CASE WHEN status = 'returned' THEN 1 END) AS returned FROM orders WHERE "
        "product_id = (SELECT id FROM products WHERE name = {})",
        product["name"],
    )[0]
    ep.note(**row)
    rate = ep.call(
        "[{returned} of {orders}; the rate is their quotient.|Now {returned} divided by {orders}.]",
        "calculator",
        expression=f"round({row['returned']} / {row['orders']} * 100, 1)",
    )
    if ep.exchanges[-1].steps[-1].failed:
        ep.answer(
            "[The division failed because there are no orders, so no rate exists.|Nothing was ordered, so a rate "
            "cannot be computed; I should say that.|Dividing by zero makes no sense: the product was never sold.]",
            "[There is no return rate: the {item} has {orders} orders so far.|The {item} has not been ordered yet "
            "({orders} orders), so a return rate cannot be given.]",
        )
    else:
        ep.answer(
            "[The rate is {rate} percent.|That gives {rate} percent.]",
            "[{rate}% of the orders for the {item} were returned ({returned} of {orders}).|The return rate of the "
            "{item} is {rate}%.]",
            rate=rate,
        )


def growth(ep: Episode) -> None:
    """Growth in percent; from zero it does not exist."""
    ep.ask(
        "[Visits went from {a} to {b}. What is the growth in percent?|By how many percent did the count change from "
        "{a} to {b}?|Last year {a}, this year {b}: what percentage growth is that?]",
        "the growth from {a} to {b} in percent",
        a=ep.rng.choice((0, 0, ep.rng.randint(20, 400))),
        b=ep.rng.randint(12, 700),
    )
    a, b = ep.values["a"], ep.values["b"]
    result = ep.call(
        "[Growth is the difference over the old value.|I divide the change by {a}.|The change, relative to {a}.]",
        "calculator",
        expression=f"round(({b} - {a}) / {a} * 100, 1)",
    )
    if ep.exchanges[-1].steps[-1].failed:
        ep.answer(
            "[From zero there is no percentage growth; I say so.|The old value is zero, so the quotient does not "
            "exist.]",
            "[Growth from {a} cannot be given in percent, since it would divide by zero. The count rose from {a} to "
            "{b}.|No percentage exists: the old value is {a}. In absolute terms it rose to {b}.]",
        )
    else:
        ep.answer("[It is {y} percent.|{y} percent.]", "[The growth is {y}%.|It changed by {y}%.]", y=result)


def percent_error(ep: Episode) -> None:
    """The agent writes a percent sign, which the calculator does not take, and rewrites the expression."""
    ep.ask(
        "[What is {p}% of {x}?|How much is {p} percent of {x}?|A fee of {p}% is taken on {x} EUR. How much is the "
        "fee?]",
        "how much {p} percent of {x} is",
        p=ep.rng.randint(3, 45),
        x=ep.rng.randint(11, 480) * 5,
    )
    p, x = ep.values["p"], ep.values["x"]
    ep.call(
        "[I give the calculator the percentage.|A percentage: the calculator.|I multiply {p}% by {x}.]",
        "calculator",
        expression=f"{p}% * {x}",
    )
    result = ep.call(
        "[It takes no percent sign, so I divide by 100.|A fraction is wanted: {p} / 100.|I rewrite the percentage.]",
        "calculator",
        expression=f"{p} / 100 * {x}",
    )
    ep.answer("[The result is {y}.|That is {y}.]", "[{p}% of {x} is {y}.|It is {y}.]", y=result)


def unit_error(ep: Episode) -> None:
    """The agent names a unit that the tool does not know, and corrects itself from the error."""
    wrong, right, other = ep.rng.choice(
        (("miles", "mile", "km"), ("lbs", "pound", "kg"), ("feet", "foot", "m"), ("oz", "ounce", "g"))
    )
    x = ep.rng.randint(3, 400)
    ep.ask(
        "[How much are {x} {wrong} in {other}?|I have {x} {wrong}; what is that in {other}?|{x} {wrong} in {other}, "
        "please.]",
        "what {x} {wrong} are in {other}",
        x=x,
        wrong=wrong,
        right=right,
        other=other,
    )
    ep.call(
        "[I use the unit converter with the units as given.|A conversion from {wrong} to {other}.|convert_units can "
        "do that.]",
        "convert_units",
        value=x,
        from_unit=wrong,
        to_unit=other,
    )
    result = ep.call(
        "[The tool calls this unit {right}.|'{wrong}' is unknown, but '{right}' is in the list.|I have to write "
        "{right} instead of {wrong}.]",
        "convert_units",
        value=x,
        from_unit=right,
        to_unit=other,
    )
    ep.answer(
        "[Now it worked: {y} {other}.|The value is {y}.]",
        "[{x} {wrong} are {y} {other}.|That is {y} {other}.]",
        y=result,
    )


def currency_error(ep: Episode) -> None:
    """The agent uses a currency's name for its code, and reads the codes in the error."""
    wrong, code = ep.rng.choice(
        (("yen", "JPY"), ("pounds", "GBP"), ("francs", "CHF"), ("zlotys", "PLN"), ("yuan", "CNY"))
    )
    ep.ask(
        "[How many {wrong} do I get for {x} EUR?|What are {x} EUR in {wrong}?|Please change {x} EUR into {wrong}.]",
        "what {x} EUR are in {wrong}",
        wrong=wrong,
        code=code,
        x=ep.rng.randint(5, 95) * 10,
    )
    ep.call(
        "[I convert from EUR to {wrong}.|convert_currency does this.|A currency conversion.]",
        "convert_currency",
        amount=ep.values["x"],
        base="EUR",
        quote=wrong,
    )
    result = ep.call(
        "[The tool wants codes; {wrong} is {code}.|The code is {code}, not {wrong}.|I should pass {code}.]",
        "convert_currency",
        amount=ep.values["x"],
        base="EUR",
        quote=code,
    )
    ep.answer(
        "[That gives {y} {code}.|The amount is {y}.]",
        "[{x} EUR are {y} {code}.|You get {y} {code} for {x} EUR.]",
        y=result,
    )


def bad_date(ep: Episode) -> None:
    """A date that does not exist: the tool refuses it and the agent says so, with the date that does."""
    year, (month, last) = ep.rng.choice((2023, 2025, 2026, 2027)), ep.rng.choice(((2, 28), (4, 30), (6, 30), (9, 30)))
    ep.ask(
        "[Which weekday is {wrong}?|What day of the week is {wrong}?|On which weekday does {wrong} fall?]",
        "the weekday of {wrong}",
        wrong=f"{year}-{month:02}-{last + 1}",
        right=f"{year}-{month:02}-{last}",
    )
    ep.call(
        "[The weekday tool answers this.|I look up the weekday.|A calendar question: weekday.]",
        "weekday",
        date=ep.values["wrong"],
    )
    day = ep.call(
        "[That date does not exist. The month ends on {right}, so I give that weekday as well.|The month is shorter "
        "than that. I check its last day, {right}.]",
        "weekday",
        date=ep.values["right"],
    )
    ep.answer(
        "[The last day of that month is a {day}.|I can explain it now.]",
        "[{wrong} does not exist; the month ends on {right}, a {day}.|There is no {wrong}. The last day of that month, "
        "{right}, is a {day}.]",
        day=day,
    )
