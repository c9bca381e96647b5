// Sortable and filterable tables.

/* columns: [{id, heading, doc, align, of, value(row) → number | string | null, cell(row) → node or text}]. Without value,
   it is the row's field `id`, as a share of the field `of` if there is one; without cell, the value as number or text.
   sortBy: the initial sort column; without it, rows keep their order. Rows without a value come last in both directions.
   pick: {label, of(row)}, a select of the rows' values next to the filter. isCards: whether each row is a card on a narrow
   screen. limit: number of rows to show before a button shows more. */
function dataTable({ label, columns: given, rows, filter, pick, rowClass, sortBy, isCards, limit = Infinity }) {
  const columns = given.filter(Boolean).map((column) => complete(column, rows));
  let most = limit + 3 > rows.length ? Infinity : limit;
  let sorting = columns.some(({ id }) => id === sortBy) ? { id: sortBy, sign: 1 } : null;
  const wanted = { text: "", kind: "" };
  const chosen = () => {
    const found = rows.filter((row) => (!wanted.kind || pick.of(row) === wanted.kind) && (!wanted.text || filter(row).toLowerCase().includes(wanted.text.toLowerCase())));
    if (!sorting) return found;
    const { value } = columns.find(({ id }) => id === sorting.id);
    const missing = (row) => (value(row) ?? null) === null;
    const compare = (a, b) => (isNumber(a) && isNumber(b) ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    return found.toSorted((a, b) => missing(a) - missing(b) || sorting.sign * compare(value(a), value(b)));
  };
  const body = el("tbody");
  const more = el("button", { type: "button", class: "more", onclick: () => {
    most = Infinity;
    draw();
    land(body.rows[limit]);
  } });
  const count = el("span", { class: "hint", role: "status" });
  const sort = (id, sign) => {
    sorting = { id, sign };
    draw();
  };
  const headings = columns.map((column) =>
    el("th", { scope: "col", class: column.align, "data-column": column.id }, el("button", { type: "button", title: column.doc, onclick: () => sort(column.id, sorting?.id === column.id ? -sorting.sign : 1) }, column.heading)),
  );
  function draw() {
    columns.forEach(({ id }, place) => (headings[place].ariaSort = sorting?.id !== id ? null : sorting.sign < 0 ? "descending" : "ascending"));
    const shown = chosen();
    refill(
      body,
      shown.slice(0, most).map((row) =>
        el("tr", { class: rowClass?.(row) }, columns.map((column, place) => el(place ? "td" : "th", { scope: place ? null : "row", class: column.align, "data-column": column.id, "data-heading": headingText(column) }, column.cell(row)))),
      ),
    );
    more.hidden = shown.length <= most;
    more.textContent = `All ${shown.length} rows`;
    count.textContent = shown.length === rows.length ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`;
  }
  draw();
  const grid = el("div", { class: isCards ? "scroll cards" : "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", null, el("thead", null, el("tr", null, headings)), body));
  if (!filter || rows.length < 2) return el("div", null, grid, more);
  const narrow = (changed) => {
    Object.assign(wanted, changed);
    draw();
  };
  const box = el("input", { type: "search", placeholder: "Filter", "aria-label": `Filter: ${label}`, oninput: () => narrow({ text: box.value }) });
  const values = pick ? [...new Set(rows.map(pick.of))] : [];
  const chooser = values.length > 1 && el("select", { "aria-label": `${pick.label}: ${label}`, onchange: () => narrow({ kind: chooser.value }) }, el("option", { value: "" }, `every ${pick.label}`), values.map((value) => el("option", { value }, value)));
  const sorter = isCards && el("select", { class: "narrow", "aria-label": "sort by", onchange: () => sort(sorter.value, 1) }, columns.map((column) => el("option", { value: column.id }, `by ${headingText(column)}`)));
  if (sorter) sorter.value = sorting?.id ?? columns[0].id;
  return el("div", null, el("div", { class: "tools" }, box, chooser, sorter, count), grid, more);
}

function complete({ of, ...column }, rows) {
  const { id, value = (row) => (!of ? row[id] : row[of] ? row[id] / row[of] : null) } = column;
  const cell = (row) => (of ? ratio(row[id], row[of]) : typeof value(row) === "string" ? name(value(row)) : number(value(row)));
  return { heading: words(id), align: rows.some((row) => isNumber(value(row))) ? "number" : null, value, cell, ...column };
}

function ratio(part, whole) {
  return whole ? `${number(part)}/${number(whole)}` : "–";
}

// Columns by their fields, each with its heading.
function fields(headings) {
  return Object.entries(headings).map(([id, heading]) => ({ id, heading }));
}

function headingText(column) {
  return [column.heading].flat().map((part) => part.textContent ?? part).join("");
}

// A table of a query's rows, by default with six digits. say(text, place): a text as it is shown. isMarked(row, place):
// whether a number is highlighted.
function plainTable({ columns, filter = false, show = (value) => number(value, 6), say = (text) => text, isMarked = () => false, ...others }) {
  return dataTable({
    ...others,
    filter: filter ? (row) => row.map(String).join(" ") : undefined,
    columns: columns.map((heading, place) => ({
      id: String(place),
      heading,
      cell: (row) => (typeof row[place] === "string" ? name(say(row[place], place)) : isMarked(row, place) ? el("b", null, "◆ ", show(row[place])) : show(row[place])),
    })),
  });
}
