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

// Do something with an element when it comes into view.
function whenSeen(element, act) {
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    act(element);
  }, { rootMargin: "300px" });
  seen.observe(element);
  return element;
}

// The place for the charts of a figure.
function lazyCharts(key) {
  return whenSeen(el("div", { class: "charts", "data-figure": key }, el("p", { class: "hint" }, "Drawing …")), drawFigure);
}

let drawing = Promise.resolve();

// The picture of a figure, loaded when it comes into view; it links to the figure.
function picture(figure) {
  const image = whenSeen(el("img", { alt: figure.alt, loading: "lazy" }), () => {
    // One after the other, so that a server that draws them can answer a click in between.
    drawing = drawing.then(() => image.isConnected && load("pictures", figure.name)).then((found) => {
      if (found?.jpeg) image.src = `data:image/jpeg;base64,${found.jpeg}`;
      else if (found) image.closest("li")?.remove(); // the figure has no data
    }, () => image.remove());
  });
  return el("a", { class: "picture", href: route("figures", figure.name), "data-picture": figure.name }, image);
}

async function figuresPage(chosen) {
  const list = index.figures;
  if (chosen === undefined) return [heading(1, "Figures"), allFigures()];
  const at = placeIn(list, "figure", chosen, (figure) => figure.name === chosen);
  return [
    heading(1, list[at].title, list[at].sql),
    el("p", { class: "links" }, at > 0 && link(`← ${list[at - 1].title}`, "figures", list[at - 1].name), " ", el("a", { href: "#/figures" }, "all figures"), " ", at < list.length - 1 && link(`${list[at + 1].title} →`, "figures", list[at + 1].name)),
    el("figure", { class: "big" }, lazyCharts(chosen), el("figcaption", null, list[at].caption)),
  ];
}

function allFigures() {
  const { figures, figures_without_data: bare } = index;
  const { drawn = [], empty = [] } = Object.groupBy(figures, ({ name: key }) => (bare.includes(key) ? "empty" : "drawn"));
  return [
    el("ul", { class: "figures" }, drawn.map((figure) => el("li", null, picture(figure), link(figure.title, "figures", figure.name), el("p", { class: "hint clamp" }, figure.caption)))),
    empty.length > 0 && el("p", { class: "hint under" }, "No data in this study: ", empty.map((figure, place) => [place > 0 && " · ", link(figure.title, "figures", figure.name)])),
  ];
}

// Most charts are drawn for paper; a wide page shows them larger.
const MOST_ENLARGED = 1.7;

// A change of theme restarts a drawing that is not finished; only the last one is shown.
const turns = new WeakMap();
const drawnViews = new Set();

async function drawFigure(place) {
  const key = place.dataset.figure;
  const turn = {};
  turns.set(place, turn);
  try {
    const [embed, figure] = await Promise.all([runVega(), load("figures", key)]);
    refill(place, figure.drawings.map((drawing) => chartBox(`chart: ${drawing.title}`)));
    for (const [at, box] of [...place.querySelectorAll(".chart")].entries()) {
      // Draw one after the other, so that the page stays responsive.
      if (turns.get(place) !== turn || !place.isConnected) return;
      await draw(embed, box, figure.drawings[at].spec);
    }
  } catch (error) {
    place.replaceChildren(el("p", { class: "failed" }, `This figure could not be drawn: ${error.message}`));
    console.error(error);
  }
}

function chartBox(label) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("div", { class: "chart" }));
}

async function draw(embed, box, spec) {
  const result = await embed(box, spec, {
    mode: "vega-lite",
    renderer: "svg",
    config: configs[isDark() ? "dark" : "light"],
    actions: false,
    ast: true, // expressions are interpreted, not compiled: the policy forbids eval
    defaultStyle: false, // the page's style sheet styles tooltips; no other style is allowed
    tooltip: { disableDefaultStyle: true },
  });
  drawnViews.add(result);
  const drawing = box.querySelector("svg");
  const scale = Math.min(MOST_ENLARGED, Math.max(1, (box.parentElement.clientWidth - 14) / drawing.getAttribute("width")));
  for (const side of ["width", "height"]) drawing.setAttribute(side, drawing.getAttribute(side) * scale);
  box.dataset.drawn = "yes";
}
