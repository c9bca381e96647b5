// Collects the licence texts of Vega and its dependencies out of node_modules.
// Vega itself comes out of vl-convert, so that charts look the same in files and on the page.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

// Command line tools of vega-lite and their dependencies; none of them reaches a browser.
const NOT_IN_PAGE = new Set([
  "ansi-regex", "ansi-styles", "cliui", "commander", "emoji-regex", "escalade", "get-caller-file",
  "get-east-asian-width", "iconv-lite", "rw", "safer-buffer", "string-width", "strip-ansi", "wrap-ansi", "y18n",
  "yargs", "yargs-parser", "vega-typings",
]);

const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
const byText = new Map();
for (const path of Object.keys(lock.packages).filter((path) => path !== "").sort()) {
  const name = path.slice("node_modules/".length);
  if (NOT_IN_PAGE.has(name) || name.startsWith("@types/")) continue;
  const { version, license } = JSON.parse(readFileSync(`${path}/package.json`, "utf8"));
  const file = readdirSync(path).find((entry) => /^licen[cs]e/i.test(entry));
  // Vega's parts stand under the licence of Vega and ship no copy of it.
  const text = readFileSync(file ? `${path}/${file}` : "node_modules/vega-lite/LICENSE", "utf8").trim();
  if (!file && !/^vega(-|$)/.test(name)) throw new Error(`${name} ships no licence`);
  byText.set(text, [...(byText.get(text) ?? []), `${name} ${version} (${license})`]);
}
writeFileSync("LICENSES.txt", [...byText].map(([text, names]) => `${names.join("\n")}\n\n${text}\n`).join(`\n${"-".repeat(80)}\n\n`));
