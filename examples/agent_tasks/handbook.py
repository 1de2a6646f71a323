"""Tasks on the files of the handbook: search, read, and act on what stands there."""

from __future__ import annotations

import re
from datetime import timedelta

from agent_tasks.episode import Episode
from agent_tasks.office import a_day
from agent_tasks.shop import FollowUp

# What is asked, the words to search for, and how the answer is put. {v} is the fact's value in this handbook.
POLICIES: dict[str, tuple[str, str, str]] = {
    "meals": (
        "[How much is paid for meals on a business trip?|What do we pay for meals a day when travelling?]",
        "meals",
        "[Meals are paid up to {v} EUR a day.|Up to {v} EUR a day.]",
    ),
    "hotel": (
        "[What may a hotel night cost?|Is there a limit for hotel nights, and what is it?]",
        "hotel night",
        "[A hotel night may cost up to {v} EUR.|The limit is {v} EUR a night.]",
    ),
    "approver": (
        "[Who has to approve a long business trip?|Whose approval does a longer trip need?]",
        "approval",
        "[A long trip needs the approval of {v}.|That is for {v} to approve.]",
    ),
    "receipts": (
        "[By when must I hand in my travel receipts?|How long do I have to hand in receipts?]",
        "receipts",
        "[Within {v} days of your return.|Hand them in within {v} days of coming back.]",
    ),
    "leave": (
        "[How many days of leave do full-time staff get?|How much paid leave is there a year?]",
        "paid leave",
        "[Full-time staff have {v} days of paid leave a year.|{v} days a year.]",
    ),
    "carry": (
        "[How many unused days of leave can I keep for next year?|Can I carry leave over, and how much?]",
        "unused",
        "[Up to {v} unused days move to the next year.|You can carry over up to {v} days.]",
    ),
    "sick": (
        "[When do I need a doctor's note?|From how many sick days on is a doctor's note needed?]",
        "doctor",
        "[You need one when you are ill for more than {v} days.|Sick leave of more than {v} days needs a note.]",
    ),
    "free": (
        "[From what order value is delivery free?|When is an order delivered free of charge?]",
        "free of charge",
        "[Orders of {v} EUR or more are delivered free.|Delivery is free from {v} EUR.]",
    ),
    "parcel": (
        "[Above what weight does a parcel go by freight?|How heavy may a parcel be before it travels by freight?]",
        "freight",
        "[Parcels heavier than {v} kg go by freight.|The limit is {v} kg.]",
    ),
    "restocking": (
        "[What is the restocking fee?|Which fee do opened goods carry when they come back?]",
        "restocking",
        "[Opened goods carry a fee of {v} percent.|It is {v} percent for opened goods.]",
    ),
    "shelf": (
        "[How much weight does a shelf carry?|What is the load limit of a shelf?]",
        "shelf",
        "[A shelf carries at most {v} kg.|At most {v} kg.]",
    ),
    "inspector": (
        "[Who inspects the forklifts?|Whose job is it to inspect the forklifts?]",
        "forklifts",
        "[The forklifts are inspected by {v}.|That is done by {v}.]",
    ),
    "laptop": (
        "[After how many years do we get a new laptop?|How often are laptops replaced?]",
        "laptops",
        "[Laptops are replaced every {v} years.|Every {v} years.]",
    ),
    "phone": (
        "[How fast must I report a lost phone?|Within what time does a lost phone have to be reported?]",
        "lost phone",
        "[Report it within {v} hours.|A lost phone has to be reported within {v} hours.]",
    ),
}
LOOK = (
    "[The handbook should say this; I search for '{words}'.|This is a question for the handbook.|I search the handbook "
    "for '{words}'.|A search for '{words}' should find the rule.]"
)
FOUND = "[The line answers it.|That is the rule.|The handbook is clear about it.|This is what was asked.]"


def fact(ep: Episode, key: str, thought: str, words: str) -> object:
    """The value of a fact, read out of what the search returned."""
    found = ep.call(thought, "search_files", query=words)
    value = ep.world.facts[key]
    assert re.search(rf"\b{re.escape(str(value))}\b", found), (found, value)
    return value


def policy(ep: Episode) -> FollowUp:
    """One look-up; then another."""
    first, second = ep.rng.sample(list(POLICIES), 2)

    def look(key: str, opening: str = "") -> None:
        question, words, answer = POLICIES[key]
        ep.ask(opening + question, "what the handbook says about '{words}'", words=words)
        ep.answer(FOUND, answer, v=fact(ep, key, LOOK, words))

    look(first)
    return lambda: look(second, "[Thanks. |And one more thing: |I see. |]")


def allowance(ep: Episode) -> None:
    """What a trip's meals or kilometres bring."""
    if ep.rng.random() < 0.5:
        ep.ask(
            "[How much can I claim for meals on a trip of {n} days?|My trip lasts {n} days. What is the most I get "
            "for meals?]",
            "the most that is paid for meals in {n} days",
            n=ep.rng.randint(2, 19),
            words="meals",
        )
        key, times = "meals", "days"
    else:
        ep.ask(
            "[I drove {n} km in my own car for the company. What do I get?|How much is paid for {n} km in my own car?]",
            "what {n} km in one's own car bring",
            n=ep.rng.randint(20, 700),
            words="own car",
        )
        key, times = "kilometre", "km"
    rate = fact(ep, key, LOOK, ep.values["words"])
    ep.note(rate=rate, times=times)
    total = ep.call(
        "[It is {rate} EUR for each; times {n}.|{n} {times} at {rate} EUR.|The rate is {rate} EUR, so I multiply.]",
        "calculator",
        expression=f"round({ep.values['n']} * {rate}, 2)",
    )
    ep.answer(
        "[That makes {total} EUR.|The result is {total} EUR.]",
        "[You can claim {total} EUR ({n} {times} at {rate} EUR).|Up to {total} EUR.|{n} {times} at {rate} EUR make "
        "{total} EUR.]",
        total=total,
    )


def trip_budget(ep: Episode) -> None:
    """Meals and nights of a trip, in another currency: five steps."""
    start = a_day(ep)
    ep.ask(
        "[I travel from {start} to {end}. What do hotel nights and meals cost at most, in {code}? Count a day of "
        "meals for each night.|What is the largest budget in {code} for hotel and meals from {start} to {end}, with "
        "one day of meals a night?]",
        "the largest budget in {code} for the trip from {start} to {end}",
        start=start.isoformat(),
        end=(start + timedelta(days=ep.rng.randint(2, 9))).isoformat(),
        code=ep.rng.choice(("USD", "GBP", "CHF", "CAD", "SEK")),
    )
    nights = ep.call(
        "[I count the nights first.|First, how many nights is that?]",
        "days_between",
        start=ep.values["start"],
        end=ep.values["end"],
    )
    ep.note(nights=nights)
    hotel = fact(ep, "hotel", "[{nights} nights. What may one cost?|Now the limit for a hotel night.]", "hotel night")
    ep.note(hotel=hotel)
    meals = fact(ep, "meals", "[{hotel} EUR a night. And meals?|Next the daily rate for meals.]", "meals")
    ep.note(meals=meals)
    euros = ep.call(
        "[{hotel} plus {meals} EUR, {nights} times.|Each night brings {hotel} and {meals} EUR.]",
        "calculator",
        expression=f"{nights} * ({hotel} + {meals})",
    )
    ep.note(euros=euros)
    amount = ep.call(
        "[{euros} EUR, to be given in {code}.|Now {euros} EUR into {code}.]",
        "convert_currency",
        amount=euros,
        base="EUR",
        quote=ep.values["code"],
    )
    ep.answer(
        "[That is {amount} {code}.|I have the budget in {code}.]",
        "[At most {amount} {code} ({euros} EUR) for {nights} nights.|The budget is {amount} {code}: {nights} nights at "
        "{hotel} EUR and meals at {meals} EUR.]",
        amount=amount,
    )


def return_until(ep: Episode) -> None:
    """The last day for a return: a rule of the handbook and a date."""
    ep.ask(
        "[My order was delivered on {day}. Until when can I return it?|Goods came on {day}. What is the last day for a "
        "return, and which weekday is that?|Delivered on {day}: how long can it go back?]",
        "the last day to return what came on {day}",
        day=a_day(ep).isoformat(),
        words="returned",
    )
    days = fact(ep, "returns", LOOK, "returned")
    ep.note(days=days)
    last = ep.call(
        "[{days} days from {day}.|The handbook gives {days} days; I add them to {day}.]",
        "add_days",
        date=ep.values["day"],
        days=days,
    )
    ep.note(last=last)
    weekday = ep.call("[That is {last}. Which weekday?|{last}; the weekday helps too.]", "weekday", date=last)
    ep.answer(
        "[A {weekday}. I have all I need.|{last} is a {weekday}.]",
        "[You can return it until {weekday}, {last} ({days} days).|The last day is {weekday}, {last}.]",
        weekday=weekday,
    )


def leave_notice(ep: Episode) -> None:
    """By when leave has to be asked for: weeks in the handbook, days in the calendar."""
    ep.ask(
        "[My leave starts on {day}. By which date must I ask for it?|I want leave from {day} on. When is the latest "
        "day to ask?|Leave from {day}: until when do I have to ask?]",
        "the latest day to ask for leave from {day}",
        day=a_day(ep).isoformat(),
        words="ask for leave",
    )
    weeks = fact(ep, "notice", LOOK, "ask for leave")
    ep.note(weeks=weeks)
    days = ep.call(
        "[{weeks} weeks ahead; how many days is that?|The rule says {weeks} weeks. In days:]",
        "calculator",
        expression=f"{weeks} * 7",
    )
    ep.note(days=days)
    last = ep.call(
        "[{days} days before {day}.|I go back {days} days from {day}.]",
        "add_days",
        date=ep.values["day"],
        days=-days,
    )
    ep.answer(
        "[The date is {last}.|It is {last}.]",
        "[Ask by {last}, {weeks} weeks before {day}.|The latest day is {last} ({weeks} weeks ahead).]",
        last=last,
    )
