// Sortable and filterable tables. TanStack's table-core sorts and filters the rows; the markup is made here.

/* columns: [{id, heading, doc, align, value(row) → number | string | null, cell(row) → node or text}].
   sortBy: the initial sort column; without it, rows keep their order. Rows without a value come last in both directions.
   pick: {label, of(row)}, a select of the rows' values beside the filter. isCards: whether each row is a card on a narrow
   screen. limit: number of rows to show before a button shows more. */
function dataTable({ label, columns, rows, filter, pick, rowClass, sortBy, isCards, limit = Infinity }) {
  let most = limit + 3 > rows.length ? Infinity : limit;
  let state = { sorting: columns.some(({ id }) => id === sortBy) ? [{ id: sortBy, desc: false }] : [], globalFilter: undefined };
  const wanted = { text: "", value: "" };
  const table = TableCore.createTable({
    data: rows,
    columns: columns.map((column) => ({
      id: column.id,
      accessorFn: (row) => column.value(row) ?? undefined,
      sortUndefined: "last",
      sortDescFirst: false,
      sortingFn: (a, b, id) => compare(a.getValue(id), b.getValue(id)),
    })),
    getCoreRowModel: TableCore.getCoreRowModel(),
    getSortedRowModel: TableCore.getSortedRowModel(),
    getFilteredRowModel: TableCore.getFilteredRowModel(),
    getColumnCanGlobalFilter: () => true,
    globalFilterFn: (row, _, { text, value }) => (!value || pick.of(row.original) === value) && filter(row.original).toLowerCase().includes(text.toLowerCase()),
    renderFallbackValue: null,
    state: {},
    onStateChange: () => {},
  });
  const set = (changed) => {
    state = { ...state, ...changed };
    table.setOptions((before) => ({ ...before, state: { ...table.initialState, ...state } }));
    draw();
  };
  const body = el("tbody");
  const more = el("button", { type: "button", class: "more", onclick: () => {
    const first = most;
    const { length } = table.getRowModel().rows;
    most = first + batchAfter(length, first) < length ? first + batchAfter(length, first) : Infinity;
    draw();
    land(body.rows[first]);
  } });
  const count = el("span", { class: "hint", role: "status" });
  const headings = columns.map((column) =>
    el("th", { scope: "col", class: column.align, "data-column": column.id }, el("button", { type: "button", title: column.doc, onclick: () => turn(column.id) }, column.heading)),
  );
  // A new object at every change, so that the table filters again.
  function narrow(changed) {
    Object.assign(wanted, changed);
    set({ globalFilter: wanted.text || wanted.value ? { ...wanted } : undefined });
  }
  function turn(id) {
    const [current] = state.sorting;
    set({ sorting: [{ id, desc: current?.id === id && !current.desc }] });
  }
  function draw() {
    columns.forEach((column, place) => {
      const [current] = state.sorting;
      if (current?.id === column.id) headings[place].setAttribute("aria-sort", current.desc ? "descending" : "ascending");
      else headings[place].removeAttribute("aria-sort");
    });
    const shown = table.getRowModel().rows;
    refill(
      body,
      shown.slice(0, most).map(({ original }) =>
        el("tr", { class: rowClass?.(original) }, columns.map((column, place) => el(place ? "td" : "th", { scope: place ? null : "row", class: column.align, "data-column": column.id, "data-heading": headingText(column), "data-value": column.value(original) }, column.cell(original)))),
      ),
    );
    more.hidden = shown.length <= most;
    more.textContent = moreOf(shown.length, most, "rows");
    if (filter) count.textContent = shown.length === rows.length ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`;
  }
  set({});
  const grid = el("div", { class: isCards ? "scroll cards" : "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", null, el("thead", null, el("tr", null, headings)), body));
  if (!filter || rows.length < 2) return el("div", null, grid, more);
  const box = el("input", { type: "search", placeholder: "Filter", "aria-label": `Filter: ${label}`, oninput: (event) => narrow({ text: event.target.value }) });
  const values = pick ? [...new Set(rows.map(pick.of))] : [];
  const chooser = values.length > 1 && el("select", { "aria-label": `${pick.label}: ${label}`, onchange: () => narrow({ value: chooser.value }) }, el("option", { value: "" }, `every ${pick.label}`), values.map((value) => el("option", { value }, value)));
  const sorter = isCards && el("select", { class: "narrow", "aria-label": "sort by", onchange: () => set({ sorting: [{ id: sorter.value, desc: false }] }) }, columns.map((column) => el("option", { value: column.id }, `by ${headingText(column)}`)));
  if (sorter) sorter.value = state.sorting[0]?.id ?? columns[0].id;
  return el("div", null, el("div", { class: "tools" }, box, chooser, sorter, count), grid, more);
}

function headingText(column) {
  return [column.heading].flat().map((part) => part.textContent ?? part).join("");
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

// A table of a query's rows, by default with six digits. say(text, place): a text as it is shown. markOf(row, place): a
// note on a highlighted number, or null.
function plainTable({ label, columns, rows, filter = false, limit, isCards, show = (value) => number(value, 6), say = (text) => text, markOf = () => null }) {
  const isNumeric = columns.map((_, place) => rows.some((row) => isNumber(row[place])));
  return dataTable({
    label,
    rows,
    limit,
    isCards,
    filter: filter ? (row) => row.map(String).join(" ") : undefined,
    columns: columns.map((heading, place) => ({
      id: String(place),
      heading,
      align: isNumeric[place] ? "number" : null,
      value: (row) => row[place],
      cell: (row) => (typeof row[place] === "string" ? name(say(row[place], place)) : markOf(row, place) !== null ? [el("b", null, "◆ ", show(row[place])), el("small", { class: "ends" }, markOf(row, place))] : show(row[place])),
    })),
  });
}
