"use strict";
// What all parts of the page share: the content, the reader's choices, and small helpers.

const report = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const finished = report.runs.filter((run) => run.status === "finished");
const pairs = new Map(); // "i,j" with i > j: what is known of their difference
for (const [i, j, ...rest] of report.pairs) pairs.set(`${Math.max(i, j)},${Math.min(i, j)}`, { i, rest });

const fixed = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);

/** How run `i` differs from run `j` on the same images; null if they have none in common. */
function difference(i, j) {
  const found = pairs.get(`${Math.max(i, j)},${Math.min(i, j)}`);
  if (!found || i === j) return null;
  const [mean, low, high, p, wins, ties, losses] = found.rest;
  if (mean === null) return null; // without true masks
  if (found.i === i) return { mean, low, high, p, wins, ties, losses };
  return { mean: -mean, low: -high, high: -low, p, wins: losses, ties, losses: wins };
}

/** P-values corrected for their number (Holm 1979); null stays null and does not count. */
function holm(values) {
  const known = values.map((p, k) => [p, k]).filter(([p]) => p !== null).sort((a, b) => a[0] - b[0]);
  const corrected = values.map(() => null);
  let largest = 0;
  known.forEach(([p, k], rank) => {
    largest = Math.max(largest, Math.min(1, (known.length - rank) * p));
    corrected[k] = largest;
  });
  return corrected;
}

/** Fill a select with `[value, text]`; keeps what was chosen if it is still there. */
function fill(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code); // if nothing else, Ctrl-C copies it
    let copied = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      copied = true;
    } catch {
      copied = document.execCommand("copy");
    }
    button.parentElement.querySelector("[role=status]").textContent = copied ? "copied" : "press Ctrl-C";
  });
}

/** What the reader has chosen: it stands in the address, so that a copied address shows the same. */
const address = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
function remember(key, value) {
  if (value === "" || value === null || value === undefined) address.delete(key);
  else address.set(key, value);
  history.replaceState(null, "", `#${address}`);
}

/** Show what a link inside the page leads to; the address keeps the reader's choices. */
function show(target) {
  if (target?.tagName === "DETAILS") target.open = true;
  target?.scrollIntoView();
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  show(byId(link.getAttribute("href").slice(1)));
});
if (location.hash.length > 1 && !address.size) show(byId(location.hash.slice(1)));
addEventListener("beforeprint", () => document.querySelectorAll("#failed").forEach((d) => (d.open = true)));
