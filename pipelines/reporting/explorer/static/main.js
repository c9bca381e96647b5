// Routes, theme, help, keyboard. Loaded last.

const main = document.querySelector("main");
const root = document.documentElement;
const VIEWS = {
  "": { view: overview, title: () => index.title },
  variant: { view: variantPage, title: (id) => variantsById.get(id)?.recipe },
  compare: { view: comparePage, title: () => "Compare" },
  prompt: { view: promptPage, title: (model, id) => index.prompts.find((one) => one.prompt_id === id)?.name },
  tokens: { view: tokensPage, title: (id, prompt) => [index.prompts.find((one) => one.prompt_id === prompt)?.name, variantsById.get(id)?.recipe].filter(Boolean).join(", ") },
  figures: { view: figuresPage, title: () => "Figures" },
  sql: { view: sqlPage, title: () => "SQL" },
  licences: { view: async () => [heading(1, "Licences"), el("p", { class: "lead" }, "This page contains Vega, Vega-Lite and Vega-Embed, with their dependencies."), el("pre", { tabindex: 0 }, await text("licences"))], title: () => "Licences" },
};
const scrolls = new Map();
let shownHash = null;
let isByLink = true;

function go(...parts) {
  isByLink = true;
  location.hash = route(...parts);
}

function replaceRoute(hash) {
  history.replaceState(null, "", hash);
  shownHash = location.hash;
}

// A part with invalid percent encoding is used unchanged.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

async function show() {
  const hash = location.hash;
  if (hash === shownHash) return;
  const isFirst = shownHash === null;
  if (!isFirst) scrolls.set(shownHash, scrollY);
  shownHash = hash;
  const [section, ...parts] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  const at = Object.hasOwn(VIEWS, section) ? VIEWS[section] : null;
  let content;
  try {
    if (!at) throw new Error(`There is no page “${section}”.`);
    content = at.view === overview ? overview() : await at.view(...parts);
  } catch (error) {
    content = [heading(1, "Not found"), el("p", { class: "failed" }, error.message), el("p", null, el("a", { href: "#/" }, "Back to the overview"))];
  }
  if (shownHash !== hash) return; // the user has opened another page meanwhile
  for (const result of drawnViews) result.finalize();
  drawnViews.clear();
  refill(main, content);
  document.title = ["Prunescope", at?.title(...parts), index.study].filter(Boolean).join(" · ");
  for (const item of document.querySelectorAll("nav a")) item.ariaCurrent = item.hash === `#/${section}` ? "page" : null;
  if (!isFirst) main.querySelector("h1")?.focus({ preventScroll: true });
  if (!isFirst) scrollTo(0, isByLink ? 0 : (scrolls.get(hash) ?? 0));
  isByLink = false;
  main.dataset.ready = hash;
}

document.addEventListener("click", (event) => {
  if (!event.defaultPrevented && event.target.closest('a[href^="#"]')) isByLink = true;
});
// Otherwise the address of the skip link would be read as a route.
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  land(main.querySelector("h1") ?? main);
});
addEventListener("hashchange", show);

// Theme: the system's, until the user presses the button.
const dark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const isDark = () => root.dataset.theme === "dark";

function setTheme(theme) {
  root.dataset.theme = theme;
  themeButton.textContent = isDark() ? "☾" : "☀";
  themeButton.setAttribute("aria-label", `Theme: ${theme}`);
  for (const place of document.querySelectorAll("[data-figure]")) if (place.querySelector(".chart")) drawFigure(place);
}

const followSystem = () => setTheme(dark.matches ? "dark" : "light");
themeButton.addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
dark.addEventListener("change", followSystem);

const help = document.querySelector("dialog");
document.getElementById("help").addEventListener("click", () => help.showModal());
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select");
  if (isTyping || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "?") help.open ? help.close() : help.showModal();
  if (event.key === "/") {
    const box = main.querySelector('input[type="search"]');
    if (box) event.preventDefault();
    box?.focus();
  }
});

followSystem();
show();
