// The SQL of every sentence and number. A live page also has a box that runs SQL on the safe connection.

// Name of the part of an address that holds the text of the box.
const ASKED = "asked";
const CHOICE = /^(\$\d|[a-z_]+)=/;
const GROUPS = { "Statements behind these pages": /^[^/]+$/, "Sentences about all variants": /^(answers|findings|search)\//, "Comparisons of two variants": /^compare\//, Figures: /^figures\//, "Views that these statements read": /^view\// };

// A key may contain slashes, encoded or not.
async function sqlPage(...parts) {
  const statements = await load("sql");
  // Parts after the key filter its rows ("model=tiny") or set a parameter as JSON ('$1="tiny"').
  const chosen = parts.filter((part) => CHOICE.test(part)).map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]);
  const asked = chosen.find(([name]) => name === ASKED)?.[1];
  const key = parts.length && asked === undefined ? parts.filter((part) => !CHOICE.test(part)).join("/") : undefined;
  if (key === undefined) {
    const entries = Object.entries(statements).sort(([, a], [, b]) => a.title.localeCompare(b.title));
    const groups = Object.entries(GROUPS).map(([title, keys]) => [title, entries.filter(([one]) => keys.test(one))]);
    return [heading(1, "SQL"), index.live && box(asked ?? "SELECT * FROM variant_summary"), el("p", { class: "lead" }, "Every sentence, number and figure on these pages comes from one of these statements."), groups.map(([title, list], place) => el("details", { open: place === 0 }, el("summary", null, title, el("span", { class: "hint" }, ` ${list.length}`)), el("ul", null, list.map(([one, statement]) => el("li", null, link(statement.title, "sql", one))))))];
  }
  if (!Object.hasOwn(statements, key)) throw new Error(`No statement has the key “${key}”.`);
  const statement = statements[key];
  const where = chosen.filter(([column]) => statement.narrow.includes(column));
  const whole = bound(statement.sql, chosen);
  const sql = where.length ? `select * from (${whole}\n) where ${where.map(([column, value]) => `${column} = ${literal(value)}`).join(" and ")}` : whole;
  return [
    heading(1, statement.title),
    el("p", { class: "links" }, el("a", { href: "#/sql" }, "all statements")),
    where.length > 0 && el("p", { class: "hint" }, "Only ", where.map(([column, value], place) => [place > 0 && ", ", column, " ", name(value)]), ". ", link("All rows", "sql", key)),
    index.live ? box(sql) : copied(sql),
    !index.live && el("p", { class: "hint" }, "To run it, use ", el("code", null, "prunescope sql"), " with this text, or ", el("code", null, `prunescope serve ${index.study}`), "."),
    statement.narrow.length > 0 && el("p", { class: "hint" }, `Links can filter its rows by ${statement.narrow.join(", ")}.`),
    statement.views.length > 0 && el("section", null, heading(2, "Views that this statement reads"), el("ul", null, statement.views.map((view) => el("li", null, link(statements[view]?.title ?? view, "sql", view))))),
  ];
}

// Replace all parameters by literals in one pass, so that no value is taken for a parameter. Comments are removed first,
// because a literal with a line break would end a comment.
function bound(sql, chosen) {
  const values = new Map(chosen.filter(([column]) => column.startsWith("$")));
  if (!values.size) return sql;
  return sql.replace(/^--.*\n/gm, "").replace(/\$\d/g, (parameter) => (values.has(parameter) ? literal(JSON.parse(values.get(parameter))) : parameter));
}

function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]${value.some((one) => typeof one === "object") ? "" : "::varchar[]"}`;
  if (typeof value === "object" && value) return `{${Object.entries(value).map(([field, inner]) => `${literal(field)}: ${literal(inner)}`).join(", ")}}`;
  return `'${String(value).replaceAll("'", "''")}'`;
}

// If the browser forbids copying, for example without TLS, the text is selected so that the user can copy it.
function copied(text) {
  const shown = el("pre", { tabindex: 0 }, text);
  const button = el("button", { type: "button", onclick: async () => {
    const isCopied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    if (isCopied) button.textContent = "Copied";
    else getSelection().selectAllChildren(shown);
  } }, "Copy");
  return el("div", { class: "code" }, button, shown);
}

function box(sql) {
  const area = el("textarea", { rows: Math.min(20, sql.split("\n").length + 1), spellcheck: "false", "aria-label": "SQL", autocomplete: "off" });
  area.value = sql;
  const result = el("div", { class: "result", "aria-live": "polite" });
  const button = el("button", { type: "button", class: "run", onclick: () => (running ? running.abort() : run()) }, "Run");
  let running = null; // on abort, the server ends the query
  async function run() {
    running?.abort();
    const mine = (running = new AbortController());
    button.textContent = "Stop";
    replaceRoute(route("sql", `${ASKED}=${area.value}`));
    result.replaceChildren(el("p", { class: "hint" }, "Running …"));
    let shown;
    try {
      const answer = await post(area.value, "rows", mine.signal);
      shown = resultOf(await answer.json(), area.value);
    } catch (error) {
      shown = [mine.signal.aborted ? el("p", { class: "hint" }, "Stopped.") : el("p", { class: "failed" }, `The server did not answer: ${error.message}`)];
    }
    if (running !== mine) return; // a newer query has started
    running = null;
    button.textContent = "Run";
    result.replaceChildren(...shown);
  }
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  return el("div", { class: "asking" }, el("div", null, area, el("p", { class: "tools" }, button, el("span", { class: "hint" }, "Ctrl + Enter runs the query: read-only, without access to files or network.")), result), schemaOf(area));
}

function post(sql, to, signal) {
  return fetch("sql", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ sql, to }), signal });
}

// Tables and views with their columns, as the box can read them.
const RELATIONS = "SELECT table_name, string_agg(column_name, ' ' ORDER BY column_index) FROM duckdb_columns() WHERE NOT internal AND NOT starts_with(table_name, 'stg_') GROUP BY table_name ORDER BY table_name";

function schemaOf(area) {
  const list = el("div", { class: "schema" });
  const filter = el("input", { type: "search", placeholder: "Tables and columns", "aria-label": "Filter: tables and columns", oninput: () => draw() });
  let all = [];
  const draw = () => {
    const wanted = filter.value.toLowerCase();
    const shown = all.filter(({ relation, columns }) => [relation, ...columns].some((one) => one.toLowerCase().includes(wanted)));
    const button = (text) => el("button", { type: "button", title: "insert", onclick: () => area.setRangeText(text, area.selectionStart, area.selectionEnd, "end") || area.focus() }, text);
    refill(list, shown.map(({ relation, columns }) => el("details", null, el("summary", null, relation), el("p", null, button(relation), columns.map((column) => [" ", button(column)])))));
  };
  post(RELATIONS, "rows").then((answer) => answer.json()).then((answer) => {
    all = answer.rows.map(([relation, columns]) => ({ relation, columns: columns.split(" ") }));
    draw();
  }).catch(() => refill(list, el("p", { class: "hint" }, "The tables could not be listed.")));
  return el("aside", { "aria-label": "tables" }, filter, list);
}

// The whole answer as a file, without the limit of the table's rows.
function download(sql, to) {
  const button = el("button", { type: "button", onclick: async () => {
    const answer = await post(sql, to);
    if (answer.headers.get("Content-Type").startsWith("application/json")) return button.replaceWith(el("span", { class: "failed" }, (await answer.json()).error));
    const file = el("a", { href: URL.createObjectURL(await answer.blob()), download: `answer.${to}` });
    file.click();
    URL.revokeObjectURL(file.href);
  } }, to === "csv" ? "CSV" : "Parquet");
  return button;
}

function resultOf(answer, sql) {
  if (answer.error) return [el("p", { class: "failed" }, answer.error)];
  const rows = `${answer.rows.length.toLocaleString("en-US")} rows${answer.truncated ? ", more were left out" : ""}, ${number(answer.seconds)} s`;
  const columns = answer.columns.map((column) => column.name);
  const chart = el("div");
  const button = el("button", { type: "button", onclick: async () => {
    const [embed, found] = await Promise.all([runVega(), post(sql, "chart").then((one) => one.json())]);
    if (found.error) return refill(chart, el("p", { class: "failed" }, found.error));
    await draw(embed, refill(chart, chartBox("chart of the answer")).querySelector(".chart"), found.spec);
  } }, "Chart");
  return [el("p", { class: "tools" }, el("span", { class: "hint" }, rows), download(sql, "csv"), download(sql, "parquet"), button), chart, plainTable({ label: "rows", columns, rows: answer.rows, show: (value) => number(value, Infinity) })];
}
