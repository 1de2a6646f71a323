"""Exchanges that need no tool: small problems whose answer follows from the question alone, and courtesies."""

from __future__ import annotations

import json

from agent_tasks.episode import Episode, listing
from agent_tasks.shop import FollowUp
from agent_tasks.world import CITIES, CUSTOMERS, SHOPS

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def thanks(ep: Episode) -> None:
    """The user says thank you; nothing has to be thought about."""
    ep.ask("[Thanks, that is all.|Thank you!|Perfect, thanks.|Great, that helps.]", "to say thank you")
    ep.answer(
        "[Only a thank-you; a short reply will do.|Nothing to do here but to be polite.|The conversation is over.]",
        "[You are welcome.|Glad to help.|Any time.|You are welcome. Have a good day.]",
    )


def sorting(ep: Episode) -> FollowUp:
    """Numbers in order; then their extremes."""
    numbers = ep.rng.sample(range(3, 99), ep.rng.randint(4, 6))
    ordered = sorted(numbers)
    ep.ask(
        "[Sort these numbers, smallest first|Put these numbers in ascending order|Order these from small to large]: "
        "{numbers}.",
        "to have these numbers in ascending order",
        numbers=", ".join(map(str, numbers)),
        ordered=", ".join(map(str, ordered)),
        low=ordered[0],
        high=ordered[-1],
    )
    ep.answer(
        "[The smallest is {low} and the largest {high}; the rest goes between.|I pick the smallest again and again, "
        "from {low} up to {high}.] So: {ordered}.",
        "{ordered}",
    )

    def extremes() -> None:
        ep.ask(
            "[What are the smallest and the largest?|And the two extremes?|Which are the first and the last of them?]",
            "the smallest and the largest of them",
        )
        ep.answer(
            "[In the sorted list they are the first and the last.|The list is sorted already, so I read off both "
            "ends.]",
            "[The smallest is {low}, the largest {high}.|{low} and {high}.]",
        )

    return extremes


def puzzle(ep: Episode) -> FollowUp:
    """Four people in a row, known by pairs."""
    people = [name.split()[0] for name in ep.rng.sample(CUSTOMERS, 4)]
    more, least, most = ep.rng.choice(
        (
            ("taller", "shortest", "tallest"),
            ("older", "youngest", "oldest"),
            ("faster", "slowest", "fastest"),
            ("heavier", "lightest", "heaviest"),
        )
    )
    clues = [f"{people[i]} is {more} than {people[i + 1]}" for i in range(3)]
    ep.rng.shuffle(clues)
    ep.ask(
        "{clues}. Who is the {least}?",
        "who is the {least} of four people",
        clues=", ".join(clues),
        least=least,
        most=most,
        row=" > ".join(people),
        last=people[-1],
        first=people[0],
    )
    ep.answer(
        "[Putting the clues together: {row}.|The clues chain up to {row}.|In a row: {row}.] [So the {least} is "
        "{last}.|The last in the row is {last}.]",
        "[{last} is the {least}.|The {least} is {last}.|{last}.]",
    )

    def other() -> None:
        ep.ask("[And who is the {most}?|Who is at the other end, the {most}?]", "who is the {most}")
        ep.answer(
            "[The row was {row}, so {first} leads.|It starts with {first}.]",
            "[{first} is the {most}.|The {most} is {first}.]",
        )

    return other


def clash(ep: Episode) -> FollowUp:
    """Whether two meetings overlap; then with one of them later."""
    hour = ep.rng.randint(8, 14)

    def clock(minutes: int) -> str:
        return f"{hour + minutes // 60}:{minutes % 60:02}"

    first_end, second_start = ep.rng.choice((45, 60, 75, 90)), ep.rng.choice((30, 60, 75, 90))
    second_end = second_start + ep.rng.choice((30, 45))

    def say(overlap: bool) -> None:
        if overlap:
            ep.answer(
                "[The second starts at {start}, before the first ends at {end}.|At {start} the first one is still "
                "running; it ends at {end}.]",
                "[Yes, they overlap: the second starts at {start} and the first ends only at {end}.|They do: from "
                "{start} the two run at the same time.]",
            )
        else:
            ep.answer(
                "[The first is over at {end} and the second starts at {start}, not before.|{start} is not earlier "
                "than {end}, so there is room.]",
                "[No, the first ends at {end} and the second starts at {start}.|They do not overlap; the second "
                "starts at {start}, when the first is over.]",
            )

    ep.ask(
        "[I have one meeting from {begin} to {end} and another from {start} to {stop}. Do they overlap?|Do these two "
        "clash: {begin} to {end}, and {start} to {stop}?]",
        "whether two meetings overlap",
        begin=clock(0),
        end=clock(first_end),
        start=clock(second_start),
        stop=clock(second_end),
    )
    say(second_start < first_end)

    def later() -> None:
        start = ep.rng.choice((15, 105, 120))
        ep.ask(
            "[And if the second one starts at {start}?|What if we move the second one to {start}?]",
            "the same with the second meeting at {start}",
            start=clock(start),
        )
        say(start < first_end)

    return later


def later_day(ep: Episode) -> FollowUp:
    """A weekday some days on; then the same backwards."""
    today, n = ep.rng.randrange(7), ep.rng.randint(8, 60)
    ep.ask(
        "[Today is {today}. Which weekday is it in {n} days?|If today is {today}, what day is {n} days from now?]",
        "the weekday {n} days after a {today}",
        today=DAYS[today],
        n=n,
        rest=n % 7,
        then=DAYS[(today + n) % 7],
        before=DAYS[(today - n) % 7],
    )
    ep.answer(
        "[Weeks do not matter: {n} days leave a remainder of {rest} after whole weeks.|{n} modulo 7 is {rest}.] "
        "{today} plus {rest} is {then}.",
        "[It is a {then}.|In {n} days it is {then}.|{then}.]",
    )

    def back() -> None:
        ep.ask("[And {n} days ago?|What weekday was it {n} days ago?]", "the weekday {n} days before")
        ep.answer(
            "[The same remainder, {rest}, but backwards from {today}: {before}.|{today} minus {rest} is {before}.]",
            "[It was a {before}.|{n} days ago it was {before}.]",
        )

    return back


def to_json(ep: Episode) -> tuple[str, str]:
    """A sentence whose facts are wanted as JSON: instruction and input."""
    name, city, item = ep.rng.choice(CUSTOMERS), ep.rng.choice(CITIES), ep.rng.choice(SHOPS[ep.world.shop])[0]
    n = ep.rng.randint(2, 30)
    ep.ask(
        "[{name} from {city} ordered {n} pieces of the {item}.|We received an order for {n} pieces of the {item} by "
        "{name} in {city}.]",
        "[Extract customer, city, product and quantity as JSON.|Give the order as a JSON object with the keys "
        "customer, city, product, quantity.]",
        name=name,
        city=city,
        n=n,
        item=item,
    )
    record = {"customer": name, "city": city, "product": item, "quantity": n}
    ep.answer("", "{json}", json=json.dumps(record))
    return ep.exchanges[-1].goal, ep.exchanges[-1].question


def to_table(ep: Episode) -> tuple[str, str]:
    """CSV that is wanted as a Markdown table: instruction and input."""
    rows = ep.rng.sample(ep.world.products, 3)
    ep.ask(
        "name,stock\n{csv}",
        "[Turn this CSV into a Markdown table.|Write the following CSV data as a Markdown table.]",
        csv="\n".join(f"{row['name']},{row['stock']}" for row in rows),
    )
    ep.answer(
        "",
        "| name | stock |\n|---|---|\n{table}",
        table="\n".join(f"| {row['name']} | {row['stock']} |" for row in rows),
    )
    return ep.exchanges[-1].goal, ep.exchanges[-1].question


def to_sentence(ep: Episode) -> tuple[str, str]:
    """Names that are wanted as one sentence in alphabetical order: instruction and input."""
    cities = ep.rng.sample(CITIES, 4)
    ep.ask(
        "{cities}",
        "[Write the cities in alphabetical order as one sentence that starts with 'We deliver to'.|List these cities "
        "alphabetically in a sentence beginning with 'We deliver to'.]",
        cities=", ".join(cities),
    )
    ep.answer("", "We deliver to {sorted}.", sorted=listing(sorted(cities)))
    return ep.exchanges[-1].goal, ep.exchanges[-1].question
