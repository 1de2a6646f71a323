"""Bad chat templates, by what they try. Each value is the template, and what is said of it."""

from __future__ import annotations

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _shown(expressions: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: ("{{ " + expression + " }}" + CHAT, says) for name, (expression, says) in expressions.items()}


DOES_NOT_COMPILE = {
    "an open tag": ("{% for m in messages", "line 1"),
    "an open block": ("\n\n{% if true %}a", "endif"),
    "an open expression": ("{{ messages", "line 1"),
    "an open string": ("{{ 'a }}", "line 1"),
    "an unknown tag": ("a\n{% frobnicate %}", "line 2"),
    "an unknown filter": ("{{ messages|frobnicate }}", "frobnicate"),
    "an unknown test": ("{{ messages is frobnicated }}", "frobnicated"),
    "an end without a start": ("{% endfor %}", "endfor"),
    "an operator without operands": ("{{ 1 ** }}", "line 1"),
    "a break outside of loops": ("{% break %}", "mend it"),
    "an open generation block": ("{% generation %}a", "line 1"),
    "a number of 5000 digits": ("{{ " + "9" * 5000 + " }}", "digits"),
    "10,000 parentheses": ("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", "recursion"),
    "10,000 operators": ("{{ " + "1+" * 10_000 + "1 }}", "recursion"),
    "1000 conditions inside each other": ("{% if true %}" * 1000 + "{% endif %}" * 1000, "mend it"),
    "100 loops inside each other": ("{% for a in messages %}" * 100 + "{% endfor %}" * 100, "mend it"),
    "not a template": ("{{ \0\1\2 }}", "line 1"),
}

RAISES = _shown(
    {
        "an exception of its own": ("raise_exception('only one user')", "only one user"),
        "an exception of many lines": ("raise_exception('a\nb' * 1000)", "a ba b"),
        "an exception that steers terminals": ("raise_exception('\x1b[2J')", "[2J"),
        "an exception that is no text": ("raise_exception(messages)", "raised"),
        "a division by zero": ("1 / 0", "division"),
        "a type error": ("messages + 1", "raised"),
        "an undefined attribute": ("nothing.at.all", "undefined"),
        "a call of nothing": ("nothing()", "undefined"),
        "an index out of range": ("messages[99].role", "no element 99"),
        "a call of a text": ("'a'()", "not callable"),
        "a macro without arguments": ("namespace(1)", "raised"),
    }
) | {
    "another file": ("{% include '/etc/passwd' %}" + CHAT, "loader"),
    "a parent": ("{% extends '/etc/passwd' %}" + CHAT, "loader"),
    "an import": ("{% import 'os' as os %}" + CHAT, "loader"),
}

REACHES = _shown(
    {
        "a class": ("''.__class__.__mro__", "unsafe"),
        "all classes": ("().__class__.__base__.__subclasses__()", "unsafe"),
        "a class by filter": ("(''|attr('__class__')).x", "unsafe"),
        "a class by item": ("''['__class__'].x", "unsafe"),
        "a class by format": ("'{0.__class__.__mro__}'.format(1)", "unsafe"),
        "a class by map of format": ("'{0.__class__.__mro__}'.format(messages)", "unsafe"),
        "a class by a format of names": ("'{a.__class__.__mro__}'.format_map({'a': 1})", "unsafe"),
        "globals of a function": ("raise_exception.__globals__.x", "unsafe"),
        "globals of the time": ("strftime_now.__globals__['datetime']", "unsafe"),
        "a shell by a cycler": ("cycler.__init__.__globals__.os.popen('id').read()", "unsafe"),
        "a shell by lipsum": ("lipsum.__globals__['os'].system('id')", "unsafe"),
        "a shell by a joiner": ("joiner.__init__.__globals__.os", "unsafe"),
        "a shell by a namespace": ("namespace.__init__.__globals__", "unsafe"),
        "a frame of a generator": ("(messages|map('upper')).gi_frame.f_globals", "unsafe"),
        "the code of a function": ("raise_exception.__code__.co_consts", "unsafe"),
        "an underscore": ("messages._x.y", "_x"),
        "an underscore of a namespace": ("namespace(__class__=1)", "underscore"),
        "a change of the messages": ("messages.append({'role': 'user', 'content': 'x'})", "unsafe"),
        "a change of a message": ("messages[0].update(content='x')", "unsafe"),
        "an end of the messages": ("messages.clear()", "unsafe"),
        "a sort of the messages": ("messages.sort()", "unsafe"),
        "a pop of a message's role": ("messages[0].pop('role')", "unsafe"),
    }
)

COSTS = _shown(
    {
        "a range of a billion": ("range(10**9)|list", "too big"),
        "a power without end": ("10**(10**10)", "too large"),
        "a power of powers": ("9**(9**9)**9", "too large"),
        "a power of two": ("2**(9**9)", "too large"),
        "a text of 10 GB": ("'a' * 10**10", "too long"),
        "a text of 10 GB, the other way round": ("10**10 * 'a'", "too long"),
        "a list of 10 GB": ("[0] * 10**10", "too long"),
        "nested repetitions": ("'a' * 10**6 * 10**6", "too long"),
        "macro on macro": ("macro()", "undefined"),
    }
) | {
    "a macro that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}" + CHAT, "recursion"),
    "a loop that calls itself": ("{% for m in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}" + CHAT, "recursion"),
    "a range in a loop": ("{% for i in range(10**9) %}x{% endfor %}" + CHAT, "too big"),
    "numbers that grow": ("{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}"
                          "{{ n.x }}" + CHAT, "too large"),
}  # fmt: skip

_LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}"
_END = "{% endfor %}{% endfor %}"
BEYOND_TIME = {
    "loops in loops": _LOOP + _END + CHAT,
    "loops that write": _LOOP + "{% if false %}x{% endif %}" + _END + CHAT,
    "loops of macros": "{% macro m(n) %}{% endmacro %}" + _LOOP + "{{ m(a) }}" + _END + CHAT,
    "words without end": "{{ lipsum(n=10**6)|length }}" + CHAT,
    "loops that swallow errors": _LOOP + "{{ 'x'|int(0) }}{{ x is iterable }}" + _END + CHAT,
    "a constant that takes long to fold": "{{ lipsum(10**6, false, 999, 9999)|wordcount }}" + CHAT,
}
BEYOND_MEMORY = {
    "a text centred in 10 GB": "{{ 'a'|center(10**10) }}" + CHAT,
    "a text justified to 100 GB": "{{ messages[0].role.ljust(10**11) }}" + CHAT,
    "a text with 10 GB of zeros": "{{ messages[0].role.zfill(10**10) }}" + CHAT,
    "a format of 10 GB": "{{ '{:>10000000000}'.format(messages[0].role) }}" + CHAT,
    "a per cent format of 10 GB": "{{ '%10000000000d' % 1 }}" + CHAT,
    "a format filter of 10 GB": "{{ '%10000000000s'|format(messages[0].role) }}" + CHAT,
    "an indent of 10 GB": "{{ (messages[0].role ~ '\n\n' ~ messages[0].role)|indent(10**10) }}" + CHAT,
    "JSON with an indent of 10 GB": "{{ messages|tojson(indent=10**10) }}" + CHAT,
    "tabs of 10 GB": "{{ '\t\t\t\t\t'.expandtabs(2 * 10**9) }}" + CHAT,
    "bytes of 10 GB": "{{ (1).to_bytes(10**10, 'big')|length }}" + CHAT,
    "a text that doubles": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}" + CHAT,
    "a list that doubles": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}" + CHAT,
    "a text that replaces itself": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.x = n.x.replace('a', n.x) %}{% endfor %}" + CHAT,
    "output without end": "{% for a in range(90000) %}{{ messages|tojson(indent=9000) }}{% endfor %}" + CHAT,
}
