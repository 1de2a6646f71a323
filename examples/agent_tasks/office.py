"""Tasks with numbers, units, money, dates and text; all that is needed stands in the question or comes from a tool."""

from __future__ import annotations

from datetime import date, timedelta

from agent_tasks.episode import Episode
from agent_tasks.shop import FollowUp
from agent_tasks.tools import RATES

WORDS = (
    "The night train leaves from platform four",
    "Please water the ferns twice a week",
    "Our new bakery opens on the corner",
    "The parcel arrived a day early and undamaged",
    "Bring a warm coat, the hall is cold",
    "She repaired the old radio with two spare parts",
    "Nobody answered the phone after lunch",
    "The lake was calm and the boats lay still",
    "We moved the meeting to the small room",
    "His first sketch already showed the bridge",
)
UNIT_NAMES = {
    "mile": "miles",
    "foot": "feet",
    "inch": "inches",
    "pound": "pounds",
    "ounce": "ounces",
    "gallon": "gallons",
    "litre": "litres",
    "cup": "cups",
    "yard": "yards",
    "fahrenheit": "degrees Fahrenheit",
    "celsius": "degrees Celsius",
}


def a_day(ep: Episode) -> date:
    """A day of 2024, 2025 or 2026."""
    return date(2024, 1, 1) + timedelta(days=ep.rng.randrange(1090))


def average(ep: Episode) -> None:
    """The mean of some readings."""
    numbers = [ep.rng.randint(12, 98) for _ in range(ep.rng.randint(4, 6))]
    ep.ask(
        "[What is the average of {numbers}?|Please give me the mean of {numbers}, to two decimals.|Compute the "
        "average of these readings: {numbers}.]",
        "the average of a few numbers",
        numbers=", ".join(map(str, numbers)),
    )
    mean = ep.call(
        "[I add the numbers and divide by how many there are.|The calculator can add them up and divide.|Sum over "
        "count; a job for the calculator.]",
        "calculator",
        expression=f"round(({' + '.join(map(str, numbers))}) / {len(numbers)}, 2)",
    )
    ep.answer("[The mean is {mean}.|That is {mean}.]", "[The average is {mean}.|Their mean is {mean}.]", mean=mean)


def trip_fuel(ep: Episode) -> FollowUp:
    """The fuel for a trip whose length is given in miles; then its price."""
    ep.ask(
        "[A van uses {use} litres per 100 km. How much fuel does a trip of {miles} miles take?|How many litres of "
        "fuel do we need for {miles} miles if the van takes {use} litres per 100 km?|We drive {miles} miles in a van "
        "that needs {use} litres per 100 km. How many litres is that?]",
        "how many litres of fuel {miles} miles take",
        miles=ep.rng.randint(40, 640),
        use=ep.rng.choice((6.5, 7.2, 8.4, 9.1, 10.5)),
    )
    km = ep.call(
        "[The use is given per 100 km, so I convert the miles first.|Miles have to become kilometres.|First into km.]",
        "convert_units",
        value=ep.values["miles"],
        from_unit="mile",
        to_unit="km",
    )
    ep.note(km=km)
    litres = ep.call(
        "[The trip is {km} km long; times {use} per 100 km.|{km} km, and {use} litres for each 100 of them.]",
        "calculator",
        expression=f"round({km} * {ep.values['use']} / 100, 1)",
    )
    ep.answer(
        "[It takes {litres} litres.|{litres} litres, so I can answer.]",
        "[The trip takes {litres} litres of fuel.|You need {litres} litres for the {miles} miles ({km} km).]",
        litres=litres,
    )

    def price() -> None:
        ep.ask(
            "[And what does that cost at {price} EUR a litre?|One litre is {price} EUR. What is the fuel bill?]",
            "the price of the fuel",
            price=ep.rng.choice((1.59, 1.64, 1.72, 1.78, 1.85)),
        )
        bill = ep.call(
            "[{litres} litres at {price} EUR each.|I multiply the {litres} litres by {price}.]",
            "calculator",
            expression=f"round({litres} * {ep.values['price']}, 2)",
        )
        ep.answer(
            "[That is {bill} EUR.|{bill} EUR.]", "[The fuel costs {bill} EUR.|It comes to {bill} EUR.]", bill=bill
        )

    return price


def unit(ep: Episode) -> FollowUp:
    """One conversion; then into a third unit."""
    first, second, third, low, high = ep.rng.choice(
        (
            ("mile", "km", "m", 2, 90),
            ("foot", "m", "cm", 3, 60),
            ("inch", "cm", "foot", 5, 90),
            ("pound", "kg", "ounce", 2, 150),
            ("gallon", "litre", "cup", 1, 40),
            ("fahrenheit", "celsius", "kelvin", 20, 110),
            ("mph", "km/h", "m/s", 15, 90),
            ("yard", "m", "foot", 8, 200),
        )
    )
    ep.ask(
        "[Convert {x} {first} to {second}.|How much are {x} {first} in {second}?|What are {x} {first} expressed in "
        "{second}?]",
        "what {x} {first} are in {second}",
        x=ep.rng.randint(low, high),
        **{key: UNIT_NAMES.get(name, name) for key, name in (("first", first), ("second", second), ("third", third))},
    )
    result = ep.call(
        "[This is a plain unit conversion.|The unit converter does this.|From {first} to {second}, with "
        "convert_units.]",
        "convert_units",
        value=ep.values["x"],
        from_unit=first,
        to_unit=second,
    )
    ep.answer(
        "[The converter says {y}.|It is {y} {second}.|I have the value.]",
        "[{x} {first} are {y} {second}.|That is {y} {second}.|{x} {first} = {y} {second}.]",
        y=result,
    )

    def again() -> None:
        ep.ask("[And in {third}?|What is it in {third}?|The same in {third}, please.]", "the same in {third}")
        result = ep.call(
            "[Same quantity, other unit.|I convert the {x} {first} again, now to {third}.]",
            "convert_units",
            value=ep.values["x"],
            from_unit=first,
            to_unit=third,
        )
        ep.answer("[It is {z} {third}.|{z}.]", "[That is {z} {third}.|{x} {first} are {z} {third}.]", z=result)

    return again


def offers(ep: Episode) -> None:
    """Two offers in two currencies: which one is cheaper?"""
    one, two = ep.rng.sample([code for code in RATES if code not in ("EUR", "JPY")], 2)
    euros = ep.rng.randint(80, 900)
    a, b = round(euros * RATES[one]), round(euros * ep.rng.choice((0.9, 0.95, 1.06, 1.12)) * RATES[two])
    ep.ask(
        "[One supplier asks {a} {one}, another {b} {two}. Which offer is cheaper?|Which is less money, {a} {one} or "
        "{b} {two}?|I can pay {a} {one} or {b} {two}. What is cheaper, in EUR?]",
        "whether {a} {one} or {b} {two} is cheaper",
        a=a,
        b=b,
        one=one,
        two=two,
    )
    first = ep.call(
        "[To compare them I convert both to EUR, {one} first.|Both have to be in one currency. I start with {a} "
        "{one}.]",
        "convert_currency",
        amount=a,
        base=one,
        quote="EUR",
    )
    ep.note(first=first)
    second = ep.call(
        "[{a} {one} are {first} EUR. Now the other.|The first is {first} EUR; next {b} {two}.]",
        "convert_currency",
        amount=b,
        base=two,
        quote="EUR",
    )
    winner = f"{a} {one}" if first < second else f"{b} {two}"
    ep.answer(
        "[{first} EUR against {second} EUR.|The second is {second} EUR, so I can compare.]",
        "[{winner} is cheaper: {low} EUR against {high} EUR.|Take {winner}: it is {low} EUR, the other {high} EUR.]",
        second=second,
        winner=winner,
        low=min(first, second),
        high=max(first, second),
    )


def days_rate(ep: Episode) -> None:
    """What a stay costs at a price a night."""
    start = a_day(ep)
    ep.ask(
        "[A room costs {rate} EUR a night. What is the bill from {start} to {end}?|What does a stay from {start} to "
        "{end} cost at {rate} EUR a night?|We rent a flat from {start} to {end}, {rate} EUR per night. What is the "
        "total?]",
        "what the nights from {start} to {end} cost",
        start=start.isoformat(),
        end=(start + timedelta(days=ep.rng.randint(3, 40))).isoformat(),
        rate=ep.rng.randint(45, 160),
    )
    nights = ep.call(
        "[First I count the nights.|The number of nights is the days between the dates.|How many nights is that?]",
        "days_between",
        start=ep.values["start"],
        end=ep.values["end"],
    )
    ep.note(nights=nights)
    total = ep.call(
        "[{nights} nights at {rate} EUR.|That is {nights} nights; I multiply.]",
        "calculator",
        expression=f"{nights} * {ep.values['rate']}",
    )
    ep.answer(
        "[The total is {total} EUR.|{total} EUR.]",
        "[{nights} nights cost {total} EUR.|The bill is {total} EUR for {nights} nights.]",
        total=total,
    )


def deadline(ep: Episode) -> FollowUp:
    """A date some days later and its weekday; then with more days."""
    ep.ask(
        "[What date is {n} days after {start}, and what weekday?|An invoice of {start} is due after {n} days. On "
        "which date and weekday is that?|A permit issued on {start} lasts {n} days. Which day does it end, and what "
        "weekday is it?]",
        "the date {n} days after {start}, with its weekday",
        n=ep.rng.choice((10, 14, 21, 30, 45, 60, 90)),
        start=a_day(ep).isoformat(),
    )

    def due(thought: str) -> None:
        end = ep.call(thought, "add_days", date=ep.values["start"], days=ep.values["n"])
        ep.note(end=end)
        day = ep.call("[That is {end}. Now its weekday.|{end}; which weekday is it?]", "weekday", date=end)
        ep.answer(
            "[{end} is a {day}.|It falls on a {day}.]",
            "[It is {day}, {end}.|That is {end}, a {day}.|The day is {day}, {end}.]",
            day=day,
        )

    due("[I add {n} days to {start}.|First the date, then its weekday.|add_days gives the date.]")

    def later() -> None:
        ep.ask(
            "[And with {n} days?|What if it were {n} days?|The same for {n} days, please.]",
            "the same with {n} days",
            n=ep.values["n"] + ep.rng.randint(5, 25),
        )
        due("[Again from {start}, now {n} days.|The start stays {start}; {n} days this time.]")

    return later


def text_length(ep: Episode) -> None:
    """How long a text is."""
    parts = ep.rng.sample(WORDS, ep.rng.randint(1, 2))
    kind = ep.rng.choice(("words", "characters"))
    ep.ask(
        "How many {kind} [has this text|are in this text|does this text have]: '{text}.'",
        "the number of {kind} in a text",
        kind=kind,
        text=". ".join(parts),
    )
    counts = ep.call(
        "[I should not count by hand; text_stats does it.|text_stats counts {kind}.|A text measurement.]",
        "text_stats",
        text=f"{ep.values['text']}.",
    )
    ep.answer(
        "[It has {n} {kind}.|The count of {kind} is {n}.]", "[The text has {n} {kind}.|{n} {kind}.]", n=counts[kind]
    )


def travel_time(ep: Episode) -> None:
    """Minutes for a distance in km at a speed in mph."""
    ep.ask(
        "[How many minutes does it take to cover {km} km at {mph} mph?|A train runs at {mph} mph. How many minutes "
        "does it need for {km} km?|At {mph} mph, how long, in minutes, are {km} km?]",
        "the minutes for {km} km at {mph} mph",
        km=ep.rng.randint(8, 240),
        mph=ep.rng.randint(20, 110),
    )
    speed = ep.call(
        "[Speed and distance use different units, so I convert the speed.|I need km/h to divide by.]",
        "convert_units",
        value=ep.values["mph"],
        from_unit="mph",
        to_unit="km/h",
    )
    ep.note(speed=speed)
    minutes = ep.call(
        "[{km} km at {speed} km/h, times 60 for minutes.|The speed is {speed} km/h. Distance over speed, in minutes.]",
        "calculator",
        expression=f"round({ep.values['km']} / {speed} * 60, 1)",
    )
    ep.answer(
        "[It takes {minutes} minutes.|{minutes} minutes.]",
        "[It takes {minutes} minutes.|{km} km take {minutes} minutes at {mph} mph.]",
        minutes=minutes,
    )
