// Figures, drawn by Vega-Embed. Vega is unpacked and run only when the first chart comes into view.

const configs = JSON.parse(document.getElementById("configs").textContent);
let vega = null;

// The page's content security policy allows exactly this script, by its hash.
function runVega() {
  vega ??= text("vega").then((source) => {
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    return window.vegaEmbed;
  });
  return vega;
}

// One place for the charts of each figure, drawn when it comes into view.
function lazyCharts(names) {
  const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    seen.unobserve(target);
    drawFigure(target);
  }), { rootMargin: "300px" });
  return names.map((key) => {
    const charts = el("div", { class: "charts", "data-figure": key }, el("p", { class: "hint" }, "Drawing …"));
    seen.observe(charts);
    return charts;
  });
}

async function figuresPage(chosen) {
  const list = index.figures;
  if (chosen !== undefined && !list.some((figure) => figure.name === chosen)) throw new Error(`This study has no figure “${chosen}”.`);
  const shown = list.filter((figure) => chosen === undefined || figure.name === chosen);
  const places = lazyCharts(shown.map((figure) => figure.name));
  const sections = shown.map((figure, place) => el("figure", { class: "big" }, chosen === undefined && heading(2, link(figure.title, "figures", figure.name), figure.sql), places[place], el("figcaption", null, figure.caption)));
  const at = list.findIndex((figure) => figure.name === chosen);
  return [
    chosen === undefined ? heading(1, "Figures") : heading(1, list[at].title, list[at].sql),
    chosen === undefined
      ? el("p", { class: "links" }, list.map((figure) => [link(figure.title, "figures", figure.name), " "]))
      : el("p", { class: "links" }, at > 0 && link(`← ${list[at - 1].title}`, "figures", list[at - 1].name), " ", el("a", { href: "#/figures" }, "all figures"), " ", at < list.length - 1 && link(`${list[at + 1].title} →`, "figures", list[at + 1].name)),
    sections,
  ];
}

// A change of theme restarts a drawing that is not finished; only the last one is shown.
const turns = new WeakMap();
const drawnViews = new Set();

function forgetFigures() {
  for (const result of drawnViews) result.finalize();
  drawnViews.clear();
}

async function drawFigure(place) {
  const key = place.dataset.figure;
  const turn = {};
  turns.set(place, turn);
  try {
    const [embed, figure] = await Promise.all([runVega(), load(`figures/${key}`)]);
    const drawn = figure.drawings.map((drawing) => ({ drawing, box: el("div", { class: "chart" }) }));
    place.replaceChildren(...drawn.map(({ drawing, box }) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `chart: ${drawing.title}` }, box)));
    for (const { drawing, box } of drawn) {
      // Draw one after the other, so that the page stays responsive.
      if (turns.get(place) !== turn || !place.isConnected) return;
      const result = await embed(box, headless(drawing, figure), {
        mode: "vega-lite",
        renderer: "svg",
        config: configs[isDark() ? "dark" : "light"],
        actions: false,
        ast: true, // expressions are interpreted, not compiled: the policy forbids eval
        defaultStyle: false, // the page's style sheet styles tooltips; no other style is allowed
        tooltip: { disableDefaultStyle: true },
      });
      drawnViews.add(result);
      box.dataset.drawn = "yes";
    }
  } catch (error) {
    place.replaceChildren(el("p", { class: "failed" }, `This figure could not be drawn: ${error.message}`));
    console.error(error);
  }
}

// Remove a chart title that repeats the page's heading; only its subtitle stays.
function headless(drawing, figure) {
  const copy = structuredClone(drawing.spec);
  copy.description = `${drawing.title}. ${figure.alt}`; // Vega passes it to screen readers
  if (copy.title?.text === figure.title) {
    if (copy.title.subtitle?.length) copy.title = { text: copy.title.subtitle, fontSize: 12, fontWeight: "normal" };
    else delete copy.title;
  }
  return copy;
}

function redrawFigures() {
  for (const place of document.querySelectorAll("[data-figure]")) if (place.querySelector(".chart")) drawFigure(place);
}
