// Elements, numbers and names for every view. All text goes through text nodes; nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of nodes(children)) element.append(child);
  return element;
}

function refill(element, ...children) {
  element.replaceChildren();
  return fill(element, null, children);
}

// What views return: nested lists in which a part that does not apply is null, undefined or false.
function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A style attribute would be refused by the page's policy; a property set by a script is not.
function styled(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
  return element;
}

function route(...parts) {
  return "#/" + parts.map((part) => encodeURIComponent(String(part))).join("/");
}

function link(text, ...parts) {
  return el("a", { href: route(...parts) }, text);
}

// To a statement by its key, or by a source: a key with what chooses its rows. The address carries both.
function sqlLink(source, what, where = {}) {
  if (!source) return null;
  const { key, where: chosen } = typeof source === "string" ? { key: source, where } : source;
  const href = route("sql", key, ...Object.entries(chosen).map(([column, value]) => `${column}=${column.startsWith("$") ? JSON.stringify(value) : value}`));
  return el("a", { class: "sql", href, "aria-label": `SQL of ${what}`, title: `SQL of ${what}` }, "SQL");
}

// Unknown text may change the direction of what follows it; <bdi> keeps it apart.
function name(text, attributes) {
  return el("bdi", attributes, text);
}

// Of any number of values: as arguments of one call, as of Math.max, some 100,000 are too many.
function extremes(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// To be glanced at: three digits, with small and large numbers by powers of ten; what was not measured is a dash.
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (!isNumber(value)) return typeof value === "object" ? JSON.stringify(value) : String(value);
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (Number.isInteger(value)) return signed(value.toLocaleString("en-US"));
  if (size < 1e-3 || size >= 1e6) return signed(digits === 3 ? value.toExponential(1) : Number(value.toPrecision(digits)).toExponential());
  return signed(value.toLocaleString("en-US", { maximumSignificantDigits: digits }));
}

// Every digit, for a reader's own query.
function exact(value) {
  return typeof value === "number" ? String(value) : number(value);
}

function signed(text) {
  return text.replace(/^-/, "−");
}

function percent(share) {
  return isNumber(share) ? signed((100 * share).toFixed(1)) : "–";
}

// A value of the table of variants, as its column says.
function cell(column, value, whole) {
  if (column.form === "percent") return percent(value);
  return isNumber(value) && isNumber(whole) ? `${number(value)}/${number(whole)}` : number(value);
}

function cellOf(column, { numbers }) {
  return cell(column, numbers[column.name], numbers[column.of]);
}

const SHAPES = new Map([
  ["safe", "●"],
  ["non-generative only", "◐"],
  ["broken", "✕"],
  ["not judged", "○"],
]);

// Words, shape and colour say the same; the dense model is what others are held against.
function verdict(variant) {
  if (variant.is_dense) return el("span", { class: "verdict" }, "reference");
  const said = variant.verdict ?? "not judged";
  const unsure = variant.is_certain === false;
  const reason = [variant.verdict_reason, unsure && "The ends of the confidence interval lead to different verdicts."].filter(Boolean).join(" ");
  return el(
    "span",
    { class: `verdict ${said.replaceAll(" ", "-")}`, title: reason },
    el("span", { class: "shape", "aria-hidden": "true" }, SHAPES.get(said) ?? "○"),
    said + (unsure ? " ?" : ""),
  );
}

// The recipe, and its model before it where the study has several.
function variantName(variant) {
  return name(index.models.length > 1 ? `${variant.model} @ ${variant.recipe}` : variant.recipe);
}

// Column headings carry the unit.
function headingOf(column) {
  return column.form === "percent" ? `${column.heading}, %` : column.heading;
}

function heading(level, title, sql, where) {
  return el(`h${level}`, level === 1 ? { tabindex: -1 } : null, title, sqlLink(sql, typeof title === "string" ? title : "this", where));
}

// Over numbers of several columns: a link for each statement, which says what comes from it.
function headingOver(title, columns, where) {
  const keys = [...new Set(columns.map((column) => column.sql))];
  return el("h2", null, title, keys.map((key) => sqlLink(key, columns.filter((column) => column.sql === key).map((column) => column.heading).join(", "), where)));
}

// The first few of a long list; a button brings the rest.
function someOf(list, count, draw, what) {
  if (list.length <= count + 2) return list.map(draw);
  const button = el("button", { type: "button", class: "more", onclick: () => {
    const rest = nodes(list.slice(count).map(draw));
    button.replaceWith(fill(document.createDocumentFragment(), null, rest));
    if (rest.length) land(rest[0].querySelector("h3"));
  } }, `All ${list.length} ${what}`);
  return [list.slice(0, count).map(draw), button];
}

// The keyboard goes on from an element that is no control.
function land(element) {
  element.tabIndex = -1;
  element.focus();
}

function facts(list) {
  return el("dl", null, list.map((fact) => [el("dt", null, fact.name), el("dd", null, fact.text)]));
}
