// How weights look, and small helpers for elements. Texts become text nodes: nothing here parses HTML.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const SVG = document.getElementById("svg").namespaceURI;

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const whole = (n) => n.toLocaleString("en");
const weigh = (n) => String(+n.toPrecision(6));
const sum = (n) => n.toLocaleString("en", { maximumFractionDigits: 2 });
const share = (part, all) => (all ? `${((100 * part) / all).toFixed(1)}%` : "-");
const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const UNTRAINED = "not trained";

class Scale {
  constructor(index) {
    this.steps = index.scale;
    this.classes = index.classes;
    this.compared = index.scales.length > 1;
    this.mode = this.compared ? "changes" : "first";
  }

  step(weight) {
    return this.steps.findIndex(({ limit, open }) => limit === null || weight < limit || (weight === limit && !open));
  }

  label(number) {
    const [first, , second] = this.classes[number];
    return first ?? second ?? UNTRAINED;
  }

  changes(number) {
    const one = this.classes[number];
    return this.compared && one[1] !== one[3];
  }

  // The step that a class of tokens is painted with. Where changes are shown, what stays the same is plain.
  paint(number) {
    const one = this.classes[number];
    if (this.mode === "changes") return this.changes(number) ? this.step(one[3]) : 0;
    return this.step(this.mode === "second" ? one[3] : one[1]);
  }

  // Trained by the first strategy alone.
  gone(number) {
    return this.mode === "changes" && this.changes(number) && this.classes[number][3] === 0;
  }

  tag(number) {
    const one = this.classes[number];
    return this.mode === "changes" && this.changes(number) ? `${weigh(one[1])}→${weigh(one[3])}` : null;
  }
}

// Control characters, and those that are invisible or turn text around, written out.
function visible(text) {
  return JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"')
    .replace(/[\u007f-\u00a0\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffd]/g,
      (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
