"""The Chinese rows: a shop and a handbook in Chinese, the same tools described in Chinese, and tasks on them."""

from __future__ import annotations

import random
import sqlite3
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from agent_tasks.episode import Episode
from agent_tasks.formats import Row, react_step, tool_messages
from agent_tasks.office import a_day
from agent_tasks.tools import TOOLS
from agent_tasks.world import World, fill_database, write_files

PRODUCTS = (
    ("龙井茶", "茶叶", 60, 180),
    ("普洱茶", "茶叶", 50, 220),
    ("茉莉花茶", "茶叶", 30, 90),
    ("紫砂壶", "茶具", 120, 400),
    ("白瓷杯", "茶具", 15, 60),
    ("竹茶盘", "茶具", 70, 200),
    ("桂花糕", "点心", 18, 45),
    ("绿豆饼", "点心", 12, 35),
)
CUSTOMERS = ("林晓", "周建国", "陈雨桐", "赵明轩", "孙丽华", "何思远", "郭静", "马天宇")
CITIES = ("杭州", "成都", "西安", "青岛", "昆明", "长沙")
HANDBOOK = {
    "差旅.md": ("出差餐费每天最多报销{meals}元。", "住宿每晚不超过{hotel}元。", "返回后{receipts}天内提交票据。"),
    "休假.md": ("全职员工每年有{leave}天带薪年假。", "休假至少提前{notice}天申请。"),
    "配送.md": ("标准配送需要{standard}天，加急配送需要{express}天。", "订单满{free}元免运费。"),
    "退货.md": ("商品签收后{returns}天内可以退货。", "已拆封商品收取{restocking}%的手续费。"),
}
RANGES = {
    "meals": (80, 100, 120, 150),
    "hotel": (350, 400, 450, 500),
    "receipts": (7, 10, 15),
    "leave": (10, 12, 15),
    "notice": (5, 7, 14),
    "standard": (3, 4, 5),
    "express": (1, 2),
    "free": (88, 99, 128, 199),
    "returns": (7, 15, 30),
    "restocking": (5, 8, 10),
}
DESCRIPTIONS = {
    "calculator": "计算算术表达式。",
    "sql": "执行一条SELECT语句。表：products(id, name, category, price, stock)，customers(id, name, city)，"
    "orders(id, customer_id, product_id, quantity, ordered_on, status)。",
    "search_files": "在员工手册中查找包含所有关键词的行。",
    "list_files": "列出员工手册的文件。",
    "read_file": "读取员工手册中的一个文件。",
    "convert_units": "单位换算。",
    "convert_currency": "货币换算。",
    "add_days": "计算若干天之后的日期。",
    "days_between": "计算两个日期之间的天数。",
    "weekday": "查询某一天是星期几。",
}
CHINESE_TOOLS = {name: TOOLS[name] | {"description": text} for name, text in DESCRIPTIONS.items()}
WEEKDAYS = dict(
    zip(
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
        strict=True,
    )
)


def make_chinese_world(rng: random.Random, folder: Path) -> World:
    """A tea shop with stock, customers and orders, and its handbook in the empty `folder`."""
    world = World("清风茶坊", sqlite3.connect(":memory:"), folder)
    for number, (name, category, low, high) in enumerate(rng.sample(PRODUCTS, len(PRODUCTS)), 1):
        row = {"id": number, "name": name, "category": category, "price": rng.randint(low, high)}
        world.products.append(row | {"stock": rng.randint(0, 80)})
    for number, name in enumerate(rng.sample(CUSTOMERS, 5), 1):
        world.customers.append({"id": number, "name": name, "city": rng.choice(CITIES)})
    day, first = date(2024, 2, 1), rng.randrange(1000, 9000)
    for number in range(rng.randint(8, 14)):
        day += timedelta(days=rng.randint(2, 25))
        row = {"id": first + number, "customer_id": rng.randint(1, 5), "product_id": rng.randint(1, 7)}
        world.orders.append(row | {"quantity": rng.randint(1, 9), "ordered_on": day.isoformat(), "status": "delivered"})
    fill_database(world)
    world.facts = {key: rng.choice(values) for key, values in RANGES.items()}
    write_files(folder, HANDBOOK, world.facts)
    return world


def discount(ep: Episode) -> None:
    """The price of several pieces with a discount."""
    product = ep.rng.choice(ep.world.products)
    ep.ask(
        "[买{n}件{item}，打{tenths}折，一共多少钱？|{item}打{tenths}折，{n}件要付多少元？|请帮我算一下：{n}件{item}打{tenths}折后的总价。]",
        "",
        item=product["name"],
        n=ep.rng.randint(2, 12),
        tenths=ep.rng.choice((7, 8, 9)),
    )
    rows = ep.sql(
        "[先查{item}的单价。|我需要知道{item}的价格，在products表里。|单价可以从数据库查到。]",
        "SELECT price FROM products WHERE name = {}",
        product["name"],
    )
    ep.note(price=rows[0]["price"])
    total = ep.call(
        "[单价是{price}元，乘以{n}再打{tenths}折。|知道了单价{price}元，现在用计算器算总价。]",
        "calculator",
        expression=f"{ep.values['n']} * {rows[0]['price']} * {ep.values['tenths']} / 10",
    )
    ep.answer(
        "", "[一共{total}元。|{n}件{item}打{tenths}折后是{total}元。|总价为{total}元，单价{price}元。]", total=total
    )


def stock(ep: Episode) -> None:
    """The stock of a category."""
    ep.ask(
        "[{category}类商品总共还有多少库存？|现在{category}一共有多少件存货？|请查一下{category}的总库存。]",
        "",
        category=ep.rng.choice(PRODUCTS)[1],
    )
    rows = ep.sql(
        "[库存记录在products表里，按类别求和即可。|我对{category}这一类的stock求和。]",
        "SELECT SUM(stock) AS pieces FROM products WHERE category = {}",
        ep.values["category"],
    )
    ep.answer("", "[{category}共有{pieces}件库存。|还有{pieces}件。|{category}的总库存是{pieces}件。]", **rows[0])


def best_seller(ep: Episode) -> None:
    """The product sold most often."""
    ep.ask("[哪种商品卖得最多？|销量最高的商品是什么，卖了多少件？|请告诉我最畅销的商品和销量。]", "")
    rows = ep.sql(
        "[把订单按商品汇总，取数量最大的一个。|需要连接orders和products两张表，按销量排序。]",
        "SELECT p.name, SUM(o.quantity) AS sold FROM orders o JOIN products p ON p.id = o.product_id GROUP BY p.id "
        "ORDER BY sold DESC, p.id LIMIT 1",
    )
    ep.answer(
        "", "[{name}卖得最多，共{sold}件。|最畅销的是{name}，卖出{sold}件。|是{name}，销量为{sold}件。]", **rows[0]
    )


def policy(ep: Episode) -> None:
    """Meals for a trip, after a rule of the handbook."""
    ep.ask(
        "[我出差{n}天，餐费最多能报销多少？|出差{n}天的餐费上限是多少元？|按照员工手册，{n}天的出差餐费最多报多少？]",
        "",
        n=ep.rng.randint(2, 15),
        meals=ep.world.facts["meals"],
    )
    ep.call("[员工手册里应该有餐费标准，先查一下。|先在手册里搜索餐费。]", "search_files", query="餐费")
    total = ep.call(
        "[每天{meals}元，共{n}天。|标准是每天{meals}元，乘以{n}天。]",
        "calculator",
        expression=f"{ep.world.facts['meals']} * {ep.values['n']}",
    )
    ep.answer("", "[最多可以报销{total}元。|{n}天最多{total}元，每天{meals}元。|上限是{total}元。]", total=total)


def return_until(ep: Episode) -> None:
    """The last day for a return."""
    ep.ask(
        "[我{day}签收的商品，最晚哪天可以退货？|商品在{day}签收，退货的最后期限是哪天，星期几？|{day}收到货，退货截止到什么时候？]",
        "",
        day=a_day(ep).isoformat(),
        days=ep.world.facts["returns"],
    )
    ep.call("[先查手册里的退货规定。|退货期限写在员工手册里。]", "search_files", query="退货")
    last = ep.call(
        "[签收后{days}天，从{day}起算。|规定是{days}天，加到{day}上。]",
        "add_days",
        date=ep.values["day"],
        days=ep.world.facts["returns"],
    )
    name = ep.call(
        "[最后一天是{last}，再查星期几。|得到{last}，看看是星期几。]".replace("{last}", last), "weekday", date=last
    )
    ep.answer("", "[最晚{last}，{name}。|截止到{last}（{name}），共{days}天。]", last=last, name=WEEKDAYS[name])


def money(ep: Episode) -> None:
    """A currency's name instead of its code, and the correction."""
    name, code = ep.rng.choice((("美元", "USD"), ("日元", "JPY"), ("英镑", "GBP"), ("瑞士法郎", "CHF")))
    ep.ask(
        "[{x}元人民币可以换多少{name}？|请把{x}元人民币换算成{name}。|{x}人民币等于多少{name}？]",
        "",
        x=ep.rng.randint(3, 90) * 50,
        name=name,
        code=code,
    )
    ep.call(
        "[用货币换算工具。|这是货币换算，人民币换{name}。]",
        "convert_currency",
        amount=ep.values["x"],
        base="CNY",
        quote=name,
    )
    result = ep.call(
        "[工具不认识“{name}”，应该用代码{code}。|需要货币代码，{name}是{code}。]",
        "convert_currency",
        amount=ep.values["x"],
        base="CNY",
        quote=code,
    )
    ep.answer("", "[{x}元人民币可以换{y}{name}。|大约是{y}{name}。|等于{y}{name}。]", y=result)


def growth(ep: Episode) -> None:
    """Growth in percent, from zero impossible."""
    ep.ask(
        "[上个月订单{a}单，这个月{b}单，增长了百分之多少？|访问量从{a}变为{b}，增长率是多少？|从{a}到{b}，增幅是百分之几？]",
        "",
        a=ep.rng.choice((0, ep.rng.randint(20, 200))),
        b=ep.rng.randint(30, 400),
    )
    a, b = ep.values["a"], ep.values["b"]
    result = ep.call(
        "[用差值除以原来的数。|增长率等于变化量除以{a}。]",
        "calculator",
        expression=f"round(({b} - {a}) / {a} * 100, 1)",
    )
    if ep.exchanges[-1].steps[-1].failed:
        ep.answer("", "[原来的数是{a}，不能作除数，所以没有增长率；数量从{a}变为{b}。|无法计算：除数为{a}。]")
    else:
        ep.answer("", "[变化率是{y}%。|变化了{y}%。]", y=result)


def parallel_stock(ep: Episode) -> None:
    """The stock of two products in two calls at once."""
    one, two = (product["name"] for product in ep.rng.sample(ep.world.products, 2))
    ep.ask("[{one}和{two}各有多少库存？|请查{one}和{two}的库存。|{one}还有多少？{two}呢？]", "", one=one, two=two)
    query = "SELECT stock FROM products WHERE name = '{}'"
    first, second = ep.parallel("", *(("sql", {"query": query.format(name)}) for name in (one, two)))
    ep.answer(
        "",
        "[{one}有{a}件，{two}有{b}件。|库存：{one}{a}件，{two}{b}件。]",
        a=first[0]["stock"],
        b=second[0]["stock"],
    )


CHINESE_TASKS = (discount, stock, best_seller, policy, return_until, money, growth)


def chinese_schemas(ep: Episode) -> list[Row]:
    """The tools of an episode and one more, described in Chinese."""
    others = [name for name in CHINESE_TOOLS if name not in ep.tools]
    names = [*ep.tools, ep.rng.choice(others)]
    ep.rng.shuffle(names)
    return [{"type": "function", "function": {"name": name, **CHINESE_TOOLS[name]}} for name in names]


def chinese_react(ep: Episode) -> Row:
    """ReAct with its English keywords and all else in Chinese."""
    (exchange,) = ep.exchanges
    lines = []
    for function in (schema["function"] for schema in chinese_schemas(ep)):
        properties: dict[str, Any] = function["parameters"]["properties"]
        inputs = ", ".join(f'"{name}": {value["type"]}' for name, value in properties.items())
        lines.append(f"{function['name']} {{{inputs}}}: {function['description']}")
    system = "请使用以下工具回答问题：\n" + "\n".join(lines)
    system += "\n\n每次先写Thought，再写Action（工具名）和JSON格式的Action Input，"
    system += "然后等待Observation。信息足够时写Thought和Final Answer。"
    messages: list[Row] = [
        {"role": "system", "content": system},
        {"role": "user", "content": f"Question: {exchange.question}"},
    ]
    for step in exchange.steps:
        messages.append({"role": "assistant", "content": react_step(step.thought, step.calls[0])})
        messages.append({"role": "user", "content": f"Observation: {step.calls[0].observation}"})
    messages.append({"role": "assistant", "content": f"Thought: 我已经知道最终答案\nFinal Answer: {exchange.answer}"})
    return {"messages": messages}


def chinese_openai(ep: Episode) -> Row:
    """tool_calls, with a system message in Chinese."""
    messages: list[Row] = [{"role": "system", "content": f"你是{ep.world.shop}的助手，请使用工具，不要猜测。"}]
    for exchange in ep.exchanges:
        messages.append({"role": "user", "content": exchange.question})
        for step in exchange.steps:
            messages += tool_messages(ep, step, {"role": "assistant", "content": None}, as_text=True)
        messages.append({"role": "assistant", "content": exchange.answer})
    return {"messages": messages, "tools": chinese_schemas(ep)}
