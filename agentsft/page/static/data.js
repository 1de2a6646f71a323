"use strict";
// Packed rows to tokens. A row is unpacked when it is looked at or searched, and kept.

async function unpack(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

class Store {
  static async open() {
    const store = new Store();
    store.elements = [...document.querySelectorAll("script.row")];
    store.index = await unpack(document.getElementById("index"));
    store.kept = new Map();
    return store;
  }

  // {classes, texts, ids: arrays over the tree's tokens, paths: [{start, end, shared, fork, from, segments, length}]}
  async row(number) {
    if (!this.kept.has(number)) this.kept.set(number, unpack(this.elements[number]).then((raw) => this.tree(raw)));
    return this.kept.get(number);
  }

  tree(raw) {
    const { ids, texts } = this.index;
    const numbers = raw.t ?? [];
    const classes = new Uint16Array(numbers.length);
    for (let i = 0, at = 0; i < (raw.c ?? []).length; at += raw.c[i], i += 2) classes.fill(raw.c[i + 1], at, at + raw.c[i]);
    let start = 0;
    const paths = [];
    for (const [shared, own, segments] of raw.p ?? []) {
      const path = { number: paths.length, start, end: start + own, shared, segments, length: shared + own, from: null, sharedEnd: 0 };
      let parent = paths.at(-1);
      while (parent && parent.shared >= shared && parent.from) parent = parent.from;
      if (parent && shared) {
        path.from = parent;
        parent.sharedEnd = Math.max(parent.sharedEnd, shared);
      }
      paths.push(path);
      start += own;
    }
    return { ids: numbers.map((n) => ids[n]), texts: numbers.map((n) => texts[n]), classes, paths };
  }

  // The tree's positions of all tokens of a path, from the root on; those of the row last asked for are kept.
  positions(tree, number) {
    if (this.placed?.tree !== tree) this.placed = { tree, of: [] };
    const { of } = this.placed;
    while (of.length <= number) {
      const path = tree.paths[of.length];
      const all = new Int32Array(path.length);
      if (path.shared) all.set(of.at(-1).subarray(0, path.shared));
      for (let k = path.shared; k < path.length; k++) all[k] = path.start + k - path.shared;
      of.push(all);
    }
    return of[number];
  }

  // A row as `agentsft preview --format json` has it, without its turns.
  async json(number) {
    const { row, source, refused, tokens, lost } = this.index.rows[number];
    const tree = await this.row(number);
    const sequences = tree.paths.map((path) => {
      const at = [...this.positions(tree, path.number)];
      const text = at.map((i) => tree.texts[i]).join("");
      const own = (i, k) => (k >= path.shared ? this.index.classes[tree.classes[i]] : [null, 0]);
      let cut = 0;
      return {
        input_ids: at.map((i) => tree.ids[i]),
        labels: at.map((i, k) => (own(i, k)[0] === null ? -100 : tree.ids[i])),
        loss_scale: at.map((i, k) => own(i, k)[1]),
        position_ids: at.map((_, k) => k),
        segments: path.segments.map(([kind, message, length]) => ({ kind, text: text.slice(cut, (cut += length)), message })),
      };
    });
    return { row, source, refused, sequences, tokens, lost };
  }

  // What a search looks through: the text of every token of the row, once.
  async text(number) {
    const tree = await this.row(number);
    tree.text ??= tree.texts.join("").toLowerCase();
    return tree.text;
  }
}
