// The token tree: a lane for each path, drawn where its own tokens stand; dark rails are what several paths share.

class TreeView {
  constructor(scale, tip) {
    Object.assign(this, { scale, tip });
  }

  render(tree, facts, open) {
    this.tree = tree;
    const box = make("div", { class: "figure" });
    const title = tree.paths.length > 1 ? `Token tree: ${plural(tree.paths.length, "path")}` : "Token tree: one path";
    const figure = make("section", { class: "card", id: "tree" }, make("h3", {}, title), make("p", { class: "note" }, this.words(facts)), this.key(), box);
    const redraw = () => box.clientWidth && box.clientWidth !== this.width && box.replaceChildren(this.svg((this.width = box.clientWidth), open));
    this.width = 0;
    new ResizeObserver(redraw).observe(box);
    return figure;
  }

  words({ tree, split }) {
    if (this.tree.paths.length < 2) return "The template leaves history alone: every message is trained on the one path.";
    const trunk = Math.min(...this.tree.paths.slice(1).map((path) => path.shared));
    return `All paths share their first ${whole(trunk)} tokens. ${whole(split)} tokens as separate sequences are ${whole(tree)} as a tree, ${(split / tree).toFixed(2)} times fewer. A lane starts where its path leaves an earlier one.`;
  }

  key() {
    const same = this.scale.mode === "changes" ? "response, its weight unchanged" : "response, not trained here";
    const gone = this.tree.classes.some((group) => this.scale.gone(group)) ? [["gone", "no longer trained"]] : [];
    const marks = [["prompt", "prompt"], ["history", same], ...gone, ...(this.tree.paths.length > 1 ? [["rail", "shared by several paths, computed once"]] : [])];
    return make("p", { class: "note keys" }, ...marks.flatMap(([name, words]) => [make("span", { class: `key ${name}` }), words]), "; the rest by weight");
  }

  svg(width, open) {
    const { paths } = this.tree;
    const lane = paths.length > 24 ? 16 : 20;
    const bar = lane - 8;
    const left = width > 620 ? 172 : 74;
    const right = width > 620 ? 64 : 8;
    const longest = Math.max(...paths.map((path) => path.length));
    const trunk = Math.min(...paths.slice(1).map((path) => path.shared));
    const cut = paths.length > 1 && trunk > 0.25 * longest ? trunk : 0; // what all share is drawn shorter than it is
    const short = cut && Math.max(60, 0.12 * width);
    const room = width - left - right - short;
    const x = (tokens) => left + (tokens < cut ? (tokens / cut) * short : short + ((tokens - cut) / (longest - cut)) * room);
    const y = (path) => 26 + path.number * lane;
    const svg = draw("svg", { class: "tree", width, height: y({ number: paths.length }) + 4, role: "group", "aria-label": "Token tree; arrow keys move between paths, Enter shows one" });
    this.axis(svg, cut, longest, x, y({ number: paths.length }), width > 620 ? 6 : 3);
    for (const path of paths) if (path.from) {
      const rail = path.from.shared < path.shared;
      svg.append(draw("path", { class: path.sharedEnd ? "rail" : "twig", d: `M${x(path.shared)} ${y(path.from) + (rail ? bar + 2 : 0)}V${y(path) + bar / 2}h3` }));
    }
    for (const path of paths) svg.append(this.lane(path, { x, y: y(path), bar, left, width, open, wide: width > 620 }));
    if (cut) svg.append(draw("path", { class: "break", d: `M${left + short / 2 - 3} ${26 + bar + 5}l6 ${-bar - 10}` }));
    svg.querySelector(".lane").setAttribute("tabindex", "0");
    svg.addEventListener("keydown", (event) => this.keys(event, svg));
    return svg;
  }

  axis(svg, cut, longest, x, bottom, ticks) {
    const rough = (longest - cut) / ticks || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = Math.max(1, [1, 2, 5, 10].find((n) => n * unit >= rough) * unit);
    const places = cut ? [0, cut] : [0];
    for (let at = Math.ceil((cut + 1) / step) * step; at <= longest; at += step) if (!cut || x(at) - x(cut) > 55) places.push(at);
    for (const at of places) {
      svg.append(draw("line", { class: "axis", x1: x(at), x2: x(at), y1: 16, y2: bottom }));
      svg.append(draw("text", { x: x(at), y: 11, "text-anchor": at ? "middle" : "start" }, at || cut ? whole(at) : "0 tokens"));
    }
  }

  lane(path, { x, y, bar, left, width, open, wide }) {
    const message = path.segments.at(-1)[1];
    const name = path.number ? `branch ${path.number}` : "path 0";
    const own = path.end - path.start;
    const label = `${name}, ends with message ${message}: ${whole(path.shared)} tokens shared, ${whole(own)} of its own`;
    const group = draw("g", { class: "lane", tabindex: "-1", role: "button", "aria-label": label });
    group.append(draw("rect", { class: "back", x: 1, y: y - 3, width: width - 2, height: bar + 6, rx: 3 }));
    group.append(draw("text", { x: 4, y: y + bar - 2 }, wide ? `${name} · message ${message}` : name.replace("branch ", "b")));
    for (const part of this.parts(path)) {
      group.append(draw("rect", { class: part.name, x: x(part.from), y, width: Math.max(x(part.to) - x(part.from) - (part.last ? 0.6 : 0), 0.4), height: bar }));
    }
    if (wide) group.append(draw("text", { x: x(path.length) + 5, y: y + bar - 2 }, `+${whole(own)}`));
    if (path.sharedEnd) group.append(draw("line", { class: "rail", x1: x(path.shared), x2: x(path.sharedEnd), y1: y + bar + 2, y2: y + bar + 2 }));
    group.addEventListener("click", () => open(path));
    group.addEventListener("pointermove", (event) => showTip(this.tip, group, event, label));
    group.addEventListener("pointerleave", () => (this.tip.hidden = true));
    group.addEventListener("focusin", (event) => showTip(this.tip, group, event, label));
    group.addEventListener("focusout", () => (this.tip.hidden = true));
    return group;
  }

  // Stretches of a path's own tokens that look alike: {from, to, name}, in tokens from the root.
  parts(path) {
    const out = [];
    let at = 0;
    for (const [kind, , , tokens] of path.segments) {
      const plain = kind === "response" || kind === "suffix" ? "history" : "prompt";
      for (let k = Math.max(at, path.shared); k < at + tokens; ) {
        const from = k;
        const look = () => this.look(this.tree.classes[path.start + k - path.shared], plain);
        const name = look();
        do k++;
        while (k < at + tokens && look() === name);
        if (kind === "suffix" && out.at(-1)?.name === name && out.at(-1).to === from) Object.assign(out.at(-1), { to: k, last: true });
        else out.push({ from, to: k, name, last: k === at + tokens });
      }
      at += tokens;
    }
    return out;
  }

  look(group, plain) {
    const step = this.scale.paint(group);
    return step ? `f${step}` : this.scale.gone(group) ? "gone" : plain;
  }

  keys(event, svg) {
    const lanes = [...svg.querySelectorAll(".lane")];
    const at = lanes.indexOf(event.target.closest(".lane"));
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.tip.hidden = true;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      lanes[at].dispatchEvent(new MouseEvent("click"));
    } else if (move && lanes[at + move]) {
      event.preventDefault();
      lanes[at].setAttribute("tabindex", "-1");
      lanes[at + move].setAttribute("tabindex", "0");
      lanes[at + move].focus();
    }
  }
}
