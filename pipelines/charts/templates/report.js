
"use strict";

// Charts are drawn one after the other, so that the page stays responsive with many of them.
async function drawCharts() {
  for (const source of document.querySelectorAll("script[data-chart]")) {
    const place = document.getElementById(source.dataset.chart);
    try {
      await vegaEmbed(place, JSON.parse(source.textContent), {
        mode: "vega-lite",
        renderer: "svg",
        actions: false,
        ast: true, // expressions are interpreted, not compiled: the page's policy forbids eval
        defaultStyle: false, // the page's style sheet styles tooltips; no other style is allowed
        tooltip: { disableDefaultStyle: true },
      });
      place.dataset.drawn = "yes";
    } catch (error) {
      place.classList.add("failed");
      place.textContent = "This chart could not be drawn: " + error.message;
      console.error(error);
    }
  }
  document.body.dataset.ready = "yes";
}

// Numbers sort as numbers, names as names, and rows without a value come last in either direction.
function sortBy(table, column, direction) {
  const key = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    return direction * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const isAscending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", isAscending ? "descending" : "ascending");
      sortBy(table, column, isAscending ? -1 : 1);
    });
  });
}

drawCharts();
