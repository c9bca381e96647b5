// Loading of documents: from the page itself (gzip in base64), or from the server that sent the page.

const documents = new Map();
const index = JSON.parse(document.getElementById("index").textContent);

async function inflate(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// The overview is shown before the browser has read the whole file, so wait for a document that has not arrived yet.
async function embedded(key) {
  const find = () => [...document.querySelectorAll("script[data-name]")].find((script) => script.dataset.name === key);
  if (!find() && document.readyState === "loading") {
    await new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, { once: true }));
  }
  return find();
}

// Read a document; if it is missing, throw an error with a message for the user.
async function read(key) {
  if (index.live) {
    // Names contain positions in this page's index; `version` tells the server which index that is.
    const answer = await fetch(`data/${key.split("/").map(encodeURIComponent).join("/")}.json${index.version ? `?version=${encodeURIComponent(index.version)}` : ""}`);
    const found = await answer.json();
    if (answer.ok) return found;
    throw new Error(found.error ?? `The server answered with status ${answer.status}.`);
  }
  const element = await embedded(key);
  if (!element) throw new Error("This part was left out to keep the file small. “prunescope serve” shows everything.");
  return JSON.parse(await inflate(element));
}

// Read a document once by name.
function load(key) {
  if (!documents.has(key)) {
    documents.set(key, read(key));
    documents.get(key).catch(() => documents.delete(key));
  }
  return documents.get(key);
}

// Load a text document of the page: Vega's script or the licences.
async function text(key) {
  return inflate(await embedded(key));
}

const variantsById = new Map(index.variants.map((variant, place) => [variant.id, { ...variant, place }]));
const prunedVariants = index.variants.filter((variant) => !variant.is_dense);

function known(id) {
  const variant = variantsById.get(id);
  if (!variant) throw new Error(`This study has no variant “${id}”.`);
  return variant;
}

function promptPlace(model, id) {
  const place = index.prompts.findIndex((prompt) => prompt.model === model && prompt.prompt_id === id);
  if (place < 0) throw new Error(`This study has no prompt “${id}”.`);
  return place;
}
