// A row's paths as text or tokens, and the note beside the one under the pointer or the focus.

const BIDI = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc\ud802\ud803\ud83a\ud83b]/;

class TextView {
  constructor(store, scale, tip) {
    Object.assign(this, { store, scale, tip, mode: "text", chosen: new Set(), element: null });
  }

  render(tree) {
    this.tree = tree;
    this.element = make("div", { class: `card paths ${this.mode}`, "aria-label": "Tokens; arrow keys move from one to the next", role: "group" });
    for (const path of tree.paths) this.element.append(this.path(path));
    for (const type of ["pointermove", "focusin"]) this.element.addEventListener(type, (event) => this.note(event));
    for (const type of ["pointerleave", "focusout"]) this.element.addEventListener(type, () => (this.tip.hidden = true));
    this.element.addEventListener("keydown", (event) => this.keys(event));
    this.filter();
    this.element.querySelector(".body span")?.setAttribute("tabindex", "0");
    return this.element;
  }

  path(path) {
    const section = make("section", { class: "path", id: `path-${path.number}` });
    if (path.number > 0) {
      const words = `branch ${path.number} `;
      const facts = `${whole(path.shared)} tokens shared with the paths above, ${whole(path.end - path.start)} of its own`;
      section.append(make("h3", {}, words, make("small", { class: "note" }, facts)));
      const context = make("details", { class: "context" }, make("summary", {}, `the ${whole(path.shared)} shared tokens before it`));
      context.addEventListener("toggle", () => {
        if (context.open && context.childElementCount === 1) this.fill(context, path, 0, path.shared);
      });
      section.append(context);
    }
    this.fill(section, path, path.shared, path.length);
    return section;
  }

  // The tokens [from, to) of a path, a block for each segment; a suffix stands with what it ends.
  fill(parent, path, from, to) {
    const positions = this.store.positions(this.tree, path.number);
    let at = 0;
    let body = null;
    path.segments.forEach(([kind, message, , tokens], number) => {
      const [low, high] = [Math.max(at, from), Math.min(at + tokens, to)];
      at += tokens;
      if (low >= high) return;
      if (kind !== "suffix" || !body) {
        const name = make("div", { class: "name" }, make("b", {}, kind), message >= 0 ? ` ${message}` : "");
        body = make("div", { class: "body" });
        parent.append(make("div", { class: "seg", "data-kind": kind, "data-message": message }, name, body));
      }
      this.segment(body, path, number, positions, low, high);
    });
  }

  segment(body, path, segment, positions, low, high) {
    const { classes, texts } = this.tree;
    let before = null;
    let block = body.lastChild ?? body.appendChild(make("div"));
    for (let k = low; k < high; ) {
      const first = k;
      const group = classes[positions[first]];
      let text = "";
      do text += texts[positions[k++]];
      while (this.mode === "text" && k < high && classes[positions[k]] === group);
      const span = make("span", { class: this.paint(group, first) });
      if (this.mode === "tokens") this.token(span, text);
      else span.append(...(block.childElementCount || block.previousSibling || !text.startsWith("\n") ? [] : [make("i", { "aria-hidden": "true" })]), text);
      if (group !== before && this.scale.tag(group)) span.dataset.tag = this.scale.tag(group);
      span.shown = { path, segment, positions, first, end: k, group };
      if (BIDI.test(text)) span.classList.add("bidi");
      block.append(span);
      before = group;
      if (block.childElementCount > 200 && text.endsWith("\n") && k < high) block = body.appendChild(make("div"));
    }
  }

  paint(group, position) {
    const changed = this.scale.mode === "changes" && this.scale.changes(group) ? " changed" : "";
    return `s${this.scale.paint(group)}${this.mode === "tokens" && position % 2 ? " odd" : ""}${changed}`;
  }

  token(span, text) {
    if (!text) span.classList.add("empty");
    text.split("\n").forEach((line, number) => {
      if (number) span.append(make("i", { "aria-hidden": "true" }), "\n");
      if (line) span.append(line);
    });
  }

  filter() {
    for (const span of this.element.querySelectorAll(".body span")) {
      span.classList.toggle("dim", this.chosen.size > 0 && !this.chosen.has(this.scale.label(span.shown.group)));
    }
  }

  note(event) {
    const span = event.target.closest(".body span");
    if (!span) return void (this.tip.hidden = true);
    const { path, segment, positions, first, end, group } = span.shown;
    let k = first;
    if (this.mode === "text" && event.type === "pointermove") k = this.under(event, span);
    const [kind, message] = path.segments[segment];
    const weights = this.scale.classes[group].filter((_, n) => n % 2).map(weigh);
    const facts = [
      ["id", this.tree.ids[positions[k]]],
      ["weight", weights.length > 1 ? this.store.index.scales.map((name, n) => `${weights[n]} ${name}`).join(", ") : weights[0]],
      ["label", this.scale.label(group)],
      ["segment", message >= 0 ? `${kind} ${message}` : kind],
      ["position", `${whole(k)}${path.number ? ` of branch ${path.number}` : ""}`],
    ];
    if (end - first > 1) facts.push(["stretch", `${whole(end - first)} tokens of this weight and label`]);
    const words = visible(this.tree.texts[positions[k]]) || "(later bytes of the character before)";
    const list = make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
    showTip(this.tip, span, event, make("code", {}, words), list);
    if (event.type === "focusin") span.setAttribute("aria-describedby", "tip");
  }

  // Which token of a stretch of text the pointer is on.
  under(event, span) {
    const { positions, first, end } = span.shown;
    const caret = document.caretPositionFromPoint?.(event.clientX, event.clientY);
    const range = caret ? null : document.caretRangeFromPoint?.(event.clientX, event.clientY);
    const [node, offset] = caret ? [caret.offsetNode, caret.offset] : [range?.startContainer, range?.startOffset];
    if (node?.parentNode !== span) return first;
    let k = first;
    for (let rest = offset - this.tree.texts[positions[k]].length; rest >= 0 && k < end - 1; ) rest -= this.tree.texts[positions[++k]].length;
    return k;
  }

  keys(event) {
    if (event.key === "Escape") this.tip.hidden = true;
    const here = event.target.closest(".body span");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!here || !(step || jump) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const all = step ? [...this.element.querySelectorAll(".body span:not(.dim)")] : [...this.element.querySelectorAll(".body")].map((body) => body.querySelector("span:not(.dim)")).filter(Boolean);
    const at = step ? all.indexOf(here) : all.indexOf(here.closest(".body").querySelector("span:not(.dim)"));
    this.focus(all[at + (step ?? jump)]);
  }

  focus(span) {
    if (!span) return;
    for (const old of this.element.querySelectorAll("[tabindex]")) old.removeAttribute("tabindex");
    span.setAttribute("tabindex", "0");
    span.scrollIntoView({ block: "nearest" });
    span.focus({ preventScroll: true });
  }

  // The next stretch, after the focused one, whose weight changes.
  nextChange(direction) {
    const all = [...this.element.querySelectorAll("[data-tag]:not(.dim)")];
    const here = this.element.querySelector("[tabindex]");
    const after = all.findIndex((span) => here.compareDocumentPosition(span) & Node.DOCUMENT_POSITION_FOLLOWING);
    const at = direction > 0 ? (after < 0 ? 0 : after) : (after < 0 ? all.length : after) - (all.includes(here) ? 2 : 1);
    const target = document.activeElement === here || direction < 0 ? all[at] : (all.includes(here) ? here : all[at]);
    target?.scrollIntoView({ block: "center" });
    this.focus(target);
  }

  // Marks every place of the words, with ranges, so that the text itself is untouched.
  highlight(words) {
    if (!("highlights" in CSS)) return;
    CSS.highlights.delete("hit");
    if (!words || !this.element) return;
    const ranges = [];
    for (const body of this.element.querySelectorAll(".body")) {
      const nodes = [];
      const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) nodes.push(walker.currentNode);
      const text = nodes.map((node) => node.data).join("").toLowerCase();
      let [number, before] = [0, 0];
      const place = (at, last) => {
        while (at - before > nodes[number].length || (!last && at - before === nodes[number].length)) before += nodes[number++].length;
        return [nodes[number], at - before];
      };
      for (let at = text.indexOf(words); at >= 0 && ranges.length < 5000; at = text.indexOf(words, at + words.length)) {
        const range = new Range();
        range.setStart(...place(at, false));
        range.setEnd(...place(at + words.length, true));
        ranges.push(range);
      }
    }
    CSS.highlights.set("hit", new Highlight(...ranges));
  }
}

function showTip(tip, target, event, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  placeTip(tip, target, event);
  if (event.type !== "focusin") return;
  for (const wait of [20, 100, 300]) setTimeout(() => target === document.activeElement && placeTip(tip, target, event), wait); // text moves as blocks come into view
}

function placeTip(tip, target, event) {
  const box = target.getClientRects()[0] ?? target.getBoundingClientRect();
  const [x, y] = event.type === "focusin" ? [box.left, box.bottom] : [event.clientX + 12, event.clientY + 14];
  const room = document.documentElement;
  tip.style.left = `${Math.max(4, Math.min(x, room.clientWidth - tip.offsetWidth - 6))}px`;
  tip.style.top = `${y + tip.offsetHeight + 8 > room.clientHeight ? Math.max(4, (event.type === "focusin" ? box.top : event.clientY) - tip.offsetHeight - 10) : y + 6}px`;
}
