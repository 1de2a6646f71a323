"""Tasks at the counter: tools that change an order, and users who confirm, correct themselves or settle for less."""

from __future__ import annotations

from agent_tasks.episode import Episode


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
