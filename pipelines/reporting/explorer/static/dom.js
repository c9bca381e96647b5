// Elements, numbers and names for all views. All text becomes text nodes; no function parses markup.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    // The page's content security policy forbids style attributes, but allows scripts to set properties.
    else if (name === "style") for (const [property, set] of Object.entries(value)) element.style.setProperty(property, set);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of nodes(children)) element.append(child);
  return element;
}

function refill(element, ...children) {
  element.replaceChildren();
  return fill(element, null, children);
}

// Flatten what views return: nested lists, in which null, undefined and false mean no element.
function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function route(...parts) {
  return "#/" + parts.map((part) => encodeURIComponent(String(part))).join("/");
}

function link(text, ...parts) {
  return el("a", { href: route(...parts) }, text);
}

// A link to a statement, by its key or by a source (a key with a filter). The address contains both.
function sqlLink(source, what, where = {}) {
  if (!source) return null;
  const { key, where: chosen } = typeof source === "string" ? { key: source, where } : source;
  const href = route("sql", key, ...Object.entries(chosen).map(([column, value]) => `${column}=${column.startsWith("$") ? JSON.stringify(value) : value}`));
  return el("a", { class: "sql", href, "aria-label": `SQL of ${what}`, title: `SQL of ${what}` }, "SQL");
}

// Text from data may change the direction of the text after it; <bdi> isolates it.
function name(text, attributes) {
  return el("bdi", attributes, text);
}

// Minimum and maximum. Math.min and Math.max fail with about 100,000 arguments.
function extremes(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// A short form: three digits, powers of ten for small and large numbers, and a dash for missing values. Infinity: all
// digits, for the user's own queries.
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (!isNumber(value)) return typeof value === "object" ? JSON.stringify(value) : String(value);
  if (value === 0 || digits === Infinity) return String(value);
  const isExponential = !Number.isInteger(value) && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6);
  if (isExponential) return withMinus(digits === 3 ? value.toExponential(1) : Number(value.toPrecision(digits)).toExponential());
  return withMinus(value.toLocaleString("en-US", Number.isInteger(value) ? {} : { maximumSignificantDigits: digits }));
}

const withMinus = (text) => text.replace(/^-/, "−");

function percent(share, digits = 1) {
  if (share > 0 && share < 0.0005) return "<0.1";
  return isNumber(share) ? withMinus((100 * share).toFixed(digits)) : "–";
}

// A value of the table of variants, in the format of its column.
function cell(column, value, whole) {
  if (column.form === "percent") return percent(value);
  return isNumber(value) && isNumber(whole) ? `${number(value)}/${number(whole)}` : number(value);
}

function cellOf(column, { numbers }) {
  return cell(column, numbers[column.name], numbers[column.of]);
}

// The 95 % interval of a variant's number: both ends, or the one that is known.
function intervalOf(column, { intervals }) {
  const [low, high] = (intervals[column.name] ?? []).map((end) => isNumber(end) && cell(column, end));
  return low && high ? `[${low}, ${high}]` : low ? `≥ ${low}` : high ? `≤ ${high}` : null;
}

// A verdict in words, sign and colour; the dense model is the reference.
function mark(said, title = "") {
  return el("span", { class: `verdict ${said.replaceAll(" ", "-")}`, title }, el("span", { class: "shape", "aria-hidden": "true" }, signOf(said)), said);
}

const signOf = (said) => index.marks[said] ?? "○";

function verdict(variant) {
  if (variant.is_dense) return el("span", { class: "verdict" }, "reference");
  return mark(variant.verdict ?? "too little evidence", variant.verdict_reason ?? "");
}

// The recipe, after its model if the study has several models.
function titleOf(variant) {
  return index.models.length > 1 ? `${variant.model} @ ${variant.recipe}` : variant.recipe;
}

function variantLink(variant) {
  return el("a", { href: route("variant", variant.id) }, name(titleOf(variant)));
}

// Column headings include the unit.
function headingOf(column) {
  return column.form === "percent" ? `${column.heading}, %` : column.heading;
}

function heading(level, title, sql, where) {
  return el(`h${level}`, level === 1 ? { tabindex: -1 } : null, title, sqlLink(sql, typeof title === "string" ? title : "this", where));
}

// Links to several statements, as a menu that says what each statement computes.
function sqlMenu(entries, where) {
  if (entries.length < 2) return entries.map(([what, key]) => sqlLink(key, what, where));
  return el("details", { class: "menu" }, el("summary", { class: "sql" }, "SQL"), el("ul", null, entries.map(([what, key]) => {
    const item = sqlLink(key, what, where);
    item.classList.remove("sql");
    return el("li", null, refill(item, what));
  })));
}

// A heading for numbers of several columns, with the statements of the columns.
function headingOver(title, columns, where) {
  const keys = [...new Set(columns.map((column) => column.sql))];
  return el("div", { class: "headed" }, el("h2", null, title), sqlMenu(keys.map((key) => [columns.filter((column) => column.sql === key).map((column) => column.heading).join(", "), key]), where));
}

// A name of SQL in words: `n_samples` is “samples”, `accuracy_per_byte` is “accuracy per byte”.
function words(column) {
  return column.replace(/^(n|is)_/, "").replace(/_nats$/, ", nats").replace(/_se$/, " ± s.e.").replaceAll("_", " ").replace(/\bppl\b/, "perplexity").replace(/^kl\b/, "KL").replace("mcnemar", "McNemar").replace("holm", "Holm");
}

// Numbers in tiles: [title, value, description, further content].
function tiles(list) {
  return el("div", { class: "numbers" }, list.map(([title, text, doc, more]) => el("div", { title: doc }, el("span", null, title), el("b", null, text), more)));
}

// A part of a page that a narrow screen shows folded.
function folded(title, ...content) {
  return el("details", { class: "part", open: innerWidth > 720 }, el("summary", null, el("h2", null, title)), content);
}

// The first few items of a long list, and a button that shows the others.
function someOf(list, count, draw, what) {
  if (list.length <= count + 2) return list.map(draw);
  const button = el("button", { type: "button", class: "more", onclick: () => {
    const rest = nodes(list.slice(count).map(draw));
    button.replaceWith(...rest);
    land(rest[0].querySelector("h3, h4"));
  } }, `All ${list.length} ${what}`);
  return [list.slice(0, count).map(draw), button];
}

// Move the keyboard focus to an element that is not a control.
function land(element) {
  element.tabIndex = -1;
  element.focus();
}

function facts(list) {
  return el("dl", null, list.map((fact) => [el("dt", null, words(fact.name)), el("dd", null, fact.text)]));
}
