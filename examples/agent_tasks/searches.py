"""Tasks whose first look into the handbook fails: the file or the word is another, or there is no such rule."""

from __future__ import annotations

from agent_tasks.episode import Episode
from agent_tasks.handbook import FOUND, LOOK, fact


def missing_file(ep: Episode) -> None:
    """The agent opens a file that is not there, lists the files and opens the right one."""
    wrong, right, key = ep.rng.choice(
        (
            ("holidays.md", "leave.md", "notice"),
            ("vacation.md", "leave.md", "carry"),
            ("delivery.md", "shipping.md", "express"),
            ("stock.md", "warehouse.md", "reorder"),
            ("refunds.md", "returns.md", "refund"),
            ("hardware.md", "equipment.md", "desk"),
        )
    )
    question, answer = {
        "notice": (
            "[How many weeks ahead must I ask for leave?|How early do I have to ask for leave?]",
            "[At least {v} weeks before it starts.|Ask at least {v} weeks ahead.]",
        ),
        "carry": (
            "[How many days of leave move to the next year?|What becomes of unused leave?]",
            "[Up to {v} unused days move to the next year.|You keep up to {v} of them.]",
        ),
        "express": (
            "[How fast is express delivery?|How many days does express delivery take?]",
            "[Express delivery takes {v} days.|In {v} days.]",
        ),
        "reorder": (
            "[When do we reorder a product?|At what stock is a product reordered?]",
            "[When fewer than {v} pieces are in stock.|Below {v} pieces.]",
        ),
        "refund": (
            "[How long does a refund take?|When are refunds paid?]",
            "[Refunds are paid within {v} days.|Within {v} days.]",
        ),
        "desk": (
            "[What is the allowance for a desk at home?|How much do I get towards a desk at home?]",
            "[The allowance is {v} EUR.|You get {v} EUR for a desk at home.]",
        ),
    }[key]
    ep.ask(f"Look it up in the handbook, please: {question}", "a rule of the handbook", v=ep.world.facts[key])
    ep.call(
        f"[It is probably in {wrong}.|I open {wrong}, which sounds right.|A file {wrong} may hold this.]",
        "read_file",
        path=wrong,
    )
    ep.call("[No such file. Which ones are there?|I list the files instead of guessing again.]", "list_files")
    ep.call(
        f"[{right} fits the question.|The right file must be {right}.|Of these, {right} is the one.]",
        "read_file",
        path=right,
    )
    ep.answer(FOUND, answer)


def second_word(ep: Episode) -> None:
    """The first search finds nothing; another word does."""
    key, first, words = ep.rng.choice(
        (
            ("meals", "food", "meals"),
            ("kilometre", "mileage", "own car"),
            ("sick", "illness", "sick leave"),
            ("free", "free shipping", "free of charge"),
            ("laptop", "notebook computer", "laptops"),
            ("forklift", "fork lift", "forklifts"),
        )
    )
    question, answer = {
        "meals": (
            "[What does the company pay for food on trips?|How much money is there for food when travelling?]",
            "[Up to {v} EUR a day for meals.|Meals are paid up to {v} EUR a day.]",
        ),
        "kilometre": (
            "[What is the mileage rate?|What is paid for mileage?]",
            "[Each kilometre in your own car is paid at {v} EUR.|{v} EUR a kilometre.]",
        ),
        "sick": (
            "[How many days of illness need no doctor's note?|How long can an illness last without a note?]",
            "[Up to {v} days; above that a doctor's note is needed.|{v} days need no note.]",
        ),
        "free": (
            "[Where does free shipping start?|For which order value is there free shipping?]",
            "[From {v} EUR on.|Orders of {v} EUR or more are delivered free.]",
        ),
        "laptop": (
            "[How many years must a notebook computer last?|When is a notebook computer replaced?]",
            "[It is replaced every {v} years.|Laptops are replaced every {v} years.]",
        ),
        "forklift": (
            "[How often is a fork lift inspected?|How many months pass between fork lift inspections?]",
            "[Every {v} months.|They are inspected every {v} months.]",
        ),
    }[key]
    ep.ask(question, "what the handbook says about '{first}'", first=first, words=words)
    ep.call(LOOK.replace("{words}", "{first}"), "search_files", query=first)
    value = fact(
        ep,
        key,
        "[Nothing. The handbook may say '{words}' instead.|No hit, so I try '{words}'.|Another word then: '{words}'.]",
        words,
    )
    ep.answer(FOUND, answer, v=value)


def not_there(ep: Episode) -> None:
    """The handbook does not say it, and neither does the agent."""
    thing, first, second = ep.rng.choice(
        (
            ("parking", "parking", "car park"),
            ("pets at work", "pets", "dog"),
            ("a dress code", "dress code", "clothing"),
            ("company bicycles", "bicycles", "bike"),
            ("training courses", "training", "courses"),
            ("parental leave", "parental leave", "parents"),
            ("company credit cards", "credit card", "card"),
        )
    )
    ep.ask(
        "[What does our handbook say about {thing}?|Is there a rule about {thing} in the handbook?|I need the rule on "
        "{thing}.]",
        "the rule on {thing}",
        thing=thing,
        words=first,
        second=second,
    )
    ep.call(LOOK, "search_files", query=first)
    ep.call("[No match. I try '{second}' before giving up.|Nothing; perhaps '{second}'.]", "search_files", query=second)
    ep.call("[Still nothing. Which files are there at all?|No match again. I check the files' names.]", "list_files")
    ep.answer(
        "[None of the files fits, so the handbook does not cover it.|I found nothing and should not invent a rule.]",
        "[The handbook has no rule on {thing}; I found nothing in any of its files.|I could not find anything about "
        "{thing} in the handbook. Better ask the team that writes it.]",
    )
