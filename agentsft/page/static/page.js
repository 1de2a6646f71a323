// The page: what is chosen, and the parts that follow from it.

const $ = (id) => document.getElementById(id);

const MEANINGS = {
  text: "text of no other kind", think: "thinking", thought: "ReAct, from “Thought:” on", action: "ReAct, from “Action:” on",
  action_input: "ReAct, from “Action Input:” on", tool_call: "a structured call", observation: "ReAct, from “Observation:” on, or a result",
  final_answer: "ReAct, from “Final Answer:” on", suffix: "the stop token", prompt: "what the model is prompted with",
};

class Page {
  constructor(store) {
    this.store = store;
    this.index = store.index;
    this.scale = new Scale(this.index);
    this.text = new TextView(store, this.scale, $("tip"));
    this.tree = new TreeView(this.scale, $("tip"));
    this.counts = this.index.rows.map((row) => new Counts(this.scale, [row]));
    this.all = new Counts(this.scale, this.index.rows);
    this.order = [...this.index.labels, UNTRAINED];
    this.listed = [];
    this.current = -1;
    this.head();
    this.totals();
    this.bar();
    this.list();
    this.find();
    document.addEventListener("keydown", (event) => this.keys(event));
    window.addEventListener("hashchange", () => this.fromHash());
    this.fromHash();
  }

  head() {
    $("settings").append(...this.index.settings.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    for (const input of document.querySelectorAll("[name=theme]")) input.addEventListener("change", () => (document.documentElement.style.colorScheme = input.value));
  }

  totals() {
    const { rows } = this.index;
    const refused = rows.filter((row) => row.refused).length;
    const add = (field) => rows.reduce((all, row) => all + row.tokens[field], 0);
    const numbers = [["rows", whole(rows.length)], refused ? ["refused", whole(refused), true] : null, ...this.figures(this.all, add("split"), add("straddling"))];
    $("totals").append(make("div", { class: "card counts" }, figures(numbers), this.table(this.all, "all rows, by label")));
  }

  figures(counts, split, straddling) {
    const compared = this.scale.compared;
    return [
      ["tokens", whole(counts.tokens)],
      split > counts.tokens ? ["as separate sequences", whole(split)] : null,
      compared ? ["tokens that change", whole(counts.changed)] : ["trained", whole(counts.sum("tokens"))],
      compared ? ["weight sum", `${sum(counts.sum("weight"))} → ${sum(counts.sum("weight", 1))}`] : ["weight sum", sum(counts.sum("weight"))],
      straddling ? ["straddling two weights", whole(straddling)] : null,
    ];
  }

  table(counts, caption) {
    return this.scale.compared ? counts.changes(caption, this.order, this.index.scales) : counts.table(caption, this.order);
  }

  bar() {
    const weights = [...new Set(this.index.classes.flatMap((one) => one.filter((_, n) => n % 2)))].sort((a, b) => a - b);
    const swatches = weights.map((weight) => make("span", { class: `swatch s${this.scale.step(weight)}`, title: this.scale.steps[this.scale.step(weight)].meaning }, weigh(weight)));
    $("legend").append("weight", ...swatches);
    $("legend").setAttribute("aria-label", `Colours of weights: ${weights.map((w) => `${weigh(w)} (${this.scale.steps[this.scale.step(w)].meaning})`).join(", ")}`);
    for (const label of this.order) if (this.all.labels.has(label)) {
      const chip = make("button", { class: "chip", "aria-pressed": "false", title: MEANINGS[label] ?? "prompts, and what weighs 0", "data-label": label }, label, make("b", {}, whole(this.all.labels.get(label))));
      chip.addEventListener("click", () => this.choose(label, chip));
      $("labels").append(chip);
    }
    this.text.mode = this.index.view;
    document.querySelector(`[name=view][value=${this.index.view}]`).checked = true;
    for (const input of document.querySelectorAll("[name=view]")) input.addEventListener("change", () => this.show(() => (this.text.mode = input.value)));
    if (this.scale.compared) this.colours();
    let waiting = 0;
    $("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.find(), 120);
    });
    $("older").addEventListener("click", () => this.move(-1));
    $("newer").addEventListener("click", () => this.move(1));
  }

  colours() {
    const [first, second] = this.index.scales;
    $("colour").hidden = false;
    for (const [mode, name] of [["changes", "changes"], ["first", first], ["second", second]]) {
      const input = make("input", { type: "radio", name: "colour", value: mode, checked: mode === "changes" });
      input.addEventListener("change", () => this.show(() => (this.scale.mode = mode)));
      $("colour").append(make("label", {}, input, make("span", {}, name)));
    }
  }

  choose(label, chip) {
    const { chosen } = this.text;
    if (!chosen.delete(label)) chosen.add(label);
    chip.setAttribute("aria-pressed", chosen.has(label));
    if (this.text.element) this.text.filter();
    this.find();
  }

  list() {
    this.items = this.index.rows.map((row, number) => {
      const counts = this.counts[number];
      const [, file, line] = /([^\\/]*?)([:#]\d+)?$/.exec(row.source);
      const refused = row.refused ?? (row.otherRefused ? { reason: `${row.otherRefused.reason} under ${this.index.scales[1]}` } : null);
      const facts = this.scale.compared ? `${whole(counts.changed)} of ${whole(counts.tokens)} tokens change` : `${whole(counts.sum("tokens"))} of ${whole(counts.tokens)} tokens trained`;
      const button = make("button", { type: "button", title: row.source }, make("span", { class: "title" }, make("b", {}, `row ${row.row}`), make("span", {}, file), make("i", {}, line ?? "")),
        refused ? make("small", { class: "bad" }, `refused: ${refused.reason}`) : "", counts.tokens ? make("small", {}, facts) : "", this.mix(counts));
      button.addEventListener("click", () => this.open(number));
      return make("li", {}, button);
    });
    $("rows").append(...this.items);
  }

  // The row's trained weights as a strip.
  mix(counts) {
    const strip = make("span", { class: "mix", "aria-hidden": "true" });
    const steps = new Map();
    for (const [number, count] of counts.classes) {
      const look = this.scale.gone(number) ? "gone" : `s${this.scale.paint(number)}`;
      steps.set(look, (steps.get(look) ?? 0) + count);
    }
    for (const step of ["s4", "s3", "s2", "s1", "gone"]) if (steps.has(step)) {
      const part = make("span", { class: step });
      part.style.width = `${(100 * steps.get(step)) / counts.tokens}%`;
      strip.append(part);
    }
    return counts.tokens ? strip : "";
  }

  // Lists the rows that hold the words and any of the chosen labels.
  async find() {
    const words = $("search").value.trim().toLowerCase();
    const run = (this.search = Symbol("search"));
    const listed = [];
    for (let start = 0; start < this.items.length; start += 64) { // rows unpack side by side, and a new word stops the old
      const batch = this.index.rows.slice(start, start + 64);
      const kept = await Promise.all(batch.map((row, n) => this.matches(row, start + n, words)));
      if (run !== this.search) return;
      kept.forEach((keep, n) => (this.items[start + n].hidden = !keep) || listed.push(start + n));
    }
    this.listed = listed;
    const all = this.index.rows.length;
    $("found").textContent = listed.length === all ? plural(all, "row") : `${whole(listed.length)} of ${plural(all, "row")}`;
    this.text.highlight(words);
    document.body.dataset.searched = words;
  }

  async matches(row, number, words) {
    const { chosen } = this.text;
    if (chosen.size && ![...chosen].some((label) => this.counts[number].labels.has(label))) return false;
    if (!words) return true;
    const about = `row ${row.row} ${row.source} ${row.refused?.reason ?? ""} ${row.refused?.detail ?? ""}`.toLowerCase();
    return about.includes(words) || String(row.row) === words || (await this.store.text(number)).includes(words);
  }

  move(by) {
    const at = this.listed.indexOf(this.current);
    const next = at < 0 ? this.listed.find((number) => number > this.current) ?? this.listed[0] : this.listed[at + by];
    if (next !== undefined) this.open(next);
  }

  keys(event) {
    if (event.target.matches("input[type=search]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { j: () => this.move(1), k: () => this.move(-1), n: () => this.text.nextChange(1), p: () => this.text.nextChange(-1), "/": () => $("search").focus(),
      t: () => document.querySelector("[name=view]:not(:checked)").click() }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  fromHash() {
    const wanted = Number(/^#row=(\d+)$/.exec(location.hash)?.[1] ?? NaN);
    const number = this.index.rows.findIndex((row) => row.row === wanted);
    if (number !== this.current || number < 0) this.open(Math.max(number, 0));
  }

  async open(number) {
    if (!this.index.rows.length) return void $("row").append(make("p", { class: "note" }, "No such row."));
    this.items[this.current]?.firstChild.removeAttribute("aria-current");
    this.current = number;
    this.items[number].firstChild.setAttribute("aria-current", "true");
    this.reveal(this.items[number]);
    try {
      history.replaceState(null, "", `#row=${this.index.rows[number].row}`);
    } catch {} // some browsers forbid it for files
    await this.show(() => {});
  }

  // Scrolls the list alone, not the page.
  reveal(item) {
    const [list, box] = [$("rows"), item.getBoundingClientRect()];
    const frame = list.getBoundingClientRect();
    if (box.top < frame.top) list.scrollTop -= frame.top - box.top;
    if (box.bottom > frame.bottom) list.scrollTop += box.bottom - frame.bottom;
  }

  // Builds the row anew after `change`.
  async show(change) {
    change();
    const number = this.current;
    if (number < 0) return;
    const tree = await this.store.row(number);
    if (number !== this.current) return;
    const row = this.index.rows[number];
    $("tip").hidden = true;
    const parts = [make("h2", {}, `row ${row.row} `, make("small", {}, row.source))];
    if (row.refused) parts.push(this.refusal("Refused", row.refused));
    if (row.otherRefused) parts.push(this.refusal(`Refused under ${this.index.scales[1]}`, row.otherRefused));
    if (row.lost) parts.push(make("p", { class: "card bad" }, `${plural(row.lost.turns, "turn")} and ${plural(row.lost.tokens, "token")} are not trained: ${row.lost.reason}`));
    if (tree.ids.length) {
      const counts = this.counts[number];
      const numbers = figures(this.figures(counts, row.tokens.split, row.tokens.straddling));
      const details = make("details", {}, make("summary", {}, "by label"), this.table(counts, "this row, by label"));
      parts.push(make("div", { class: "card counts" }, numbers, details));
      parts.push(this.tree.render(tree, row.tokens, (path) => $(`path-${path.number}`).scrollIntoView()));
      if (this.scale.compared) parts.push(this.jumps(counts));
      parts.push(this.text.render(tree));
    }
    $("row").replaceChildren(...parts);
    this.text.highlight($("search").value.trim().toLowerCase());
    document.body.dataset.shown = `${number} ${this.text.mode} ${this.scale.mode}`;
  }

  refusal(title, { reason, message, detail }) {
    const where = message === null ? "" : ` message ${message}:`;
    return make("p", { class: "card" }, make("b", { class: "bad" }, `${title}: ${reason}`), `${where} ${detail}`);
  }

  jumps(counts) {
    const back = make("button", { type: "button" }, "previous change (p)");
    const next = make("button", { type: "button" }, "next change (n)");
    back.addEventListener("click", () => this.text.nextChange(-1));
    next.addEventListener("click", () => this.text.nextChange(1));
    return make("div", { class: "jump" }, counts.changed ? `${plural(counts.changed, "token")} of another weight` : "No weight changes in this row.", ...(counts.changed ? [back, next] : []));
  }
}

Store.open().then((store) => {
  window.agentsft = { store, page: new Page(store) };
});
