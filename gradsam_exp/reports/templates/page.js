"use strict";
// What all parts of the report share: how its runs differ, and links to them.

const finished = report.runs.filter((run) => run.status === "finished");
const pairs = new Map(); // "i,j" with i > j: what is known of their difference
for (const [i, j, ...rest] of report.pairs) pairs.set(`${Math.max(i, j)},${Math.min(i, j)}`, { i, rest });

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
