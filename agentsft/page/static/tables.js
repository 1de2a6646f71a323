// Counts: of one row, or of all.

class Counts {
  constructor(scale, rows) {
    this.scale = scale;
    this.classes = new Map();
    for (const row of rows) for (const [number, count] of row.counts) this.classes.set(number, (this.classes.get(number) ?? 0) + count);
    this.tokens = [...this.classes.values()].reduce((a, b) => a + b, 0);
    this.labels = new Map(); // label -> tokens, of either strategy
    this.trained = [new Map(), new Map()]; // of each strategy: label -> {tokens, weight}
    this.groups = new Map(); // where two are compared: "label, weight, weight" -> {label, one, two, tokens}
    this.changed = 0;
    for (const [number, count] of this.classes) this.count(scale.classes[number], scale.label(number), count);
  }

  count(one, label, count) {
    this.labels.set(label, (this.labels.get(label) ?? 0) + count);
    for (let n = 0; n < one.length; n += 2) if (one[n] !== null) {
      const found = this.trained[n / 2].get(one[n]) ?? { tokens: 0, weight: 0 };
      this.trained[n / 2].set(one[n], { tokens: found.tokens + count, weight: found.weight + count * one[n + 1] });
    }
    if (one.length < 4 || label === UNTRAINED) return;
    const key = `${label} ${one[1]} ${one[3]}`;
    const group = this.groups.get(key) ?? { label, one: one[1], two: one[3], tokens: 0 };
    group.tokens += count;
    this.groups.set(key, group);
    if (one[1] !== one[3]) this.changed += count;
  }

  sum(field, strategy = 0) {
    return [...this.trained[strategy].values()].reduce((all, found) => all + found[field], 0);
  }

  table(caption, order) {
    const all = this.sum("tokens");
    const weight = this.sum("weight");
    const rows = [...this.trained[0]].sort(([a], [b]) => order.indexOf(a) - order.indexOf(b))
      .map(([label, found]) => [label, whole(found.tokens), share(found.tokens, all), sum(found.weight), share(found.weight, weight)]);
    return table(caption, ["label", "tokens", "share", "weight sum", "share"], rows, ["trained", whole(all), share(all, this.tokens) + " of all", sum(weight), ""]);
  }

  changes(caption, order, names) {
    const groups = [...this.groups.values()].sort((a, b) => order.indexOf(a.label) - order.indexOf(b.label) || a.one - b.one || a.two - b.two);
    const mark = (weight) => make("span", { class: `swatch s${this.scale.step(weight)}` }, weigh(weight));
    const rows = groups.map((group) => [group.label, mark(group.one), mark(group.two), whole(group.tokens), group.one === group.two ? "same" : make("b", {}, "changed")]);
    return table(caption, ["label", ...names, "tokens", ""], rows, ["weight sum", sum(this.sum("weight", 0)), sum(this.sum("weight", 1)), whole(this.changed), "changed"]);
  }
}

function table(caption, columns, rows, foot) {
  const cells = (tag, row) => row.map((cell, n) => make(n ? tag : "th", { class: n && n < 5 && columns[n] ? "number" : null, scope: n ? null : "row" }, cell));
  return make("div", { class: "scroll" }, make("table", {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...columns.map((name, n) => make("th", { scope: "col", class: n && name ? "number" : null }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells("td", row)))),
    make("tfoot", {}, make("tr", {}, ...cells("td", foot)))));
}

function figures(pairs) {
  return make("dl", { class: "figures" }, ...pairs.filter(Boolean).map(([name, value, bad]) => make("div", { class: bad ? "bad" : null }, make("dt", {}, name), make("dd", {}, value))));
}
