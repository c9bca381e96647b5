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
    const answer = await fetch(`data/${key.split("/").map(encodeURIComponent).join("/")}.json`);
    const found = await answer.json();
    if (answer.ok) return found;
    throw new Error(found.error ?? `The server answered with status ${answer.status}.`);
  }
  const element = await embedded(key);
  if (!element) throw new Error("This part was left out to keep the file small. “prunescope serve” shows everything.");
  return JSON.parse(await inflate(element));
}

// Read a document once by its kind and ids.
function load(...name) {
  const key = name.map(encodeURIComponent).join("/");
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

const variantsById = new Map(index.variants.map((variant) => [variant.id, variant]));
const promptsById = new Map(index.prompts.map((prompt) => [route("prompt", prompt.model, prompt.prompt_id), prompt]));
const promptOf = (model, id) => promptsById.get(route("prompt", model, id));
const prunedVariants = index.variants.filter((variant) => !variant.is_dense);

// Position in a list of the index; throws an error with a message for the user if it is not there.
function placeIn(list, what, id, isWanted = (one) => one.id === id) {
  const place = list.findIndex(isWanted);
  if (place < 0) throw new Error(`This study has no ${what} “${id}”.`);
  return place;
}

function known(id) {
  return index.variants[placeIn(index.variants, "variant", id)];
}

function knownPrompt(model, id) {
  return index.prompts[placeIn(index.prompts, "prompt", id, (prompt) => prompt === promptOf(model, id))];
}
