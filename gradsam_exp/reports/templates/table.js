"use strict";
// The comparison: sorted by a click on a heading, filtered by words, against any baseline.

const comparison = byId("comparison");
const body = comparison.tBodies[0];
const headings = [...comparison.tHead.rows[0].cells];

function sortBy(column, ascending) {
  const heading = headings[column];
  const value = (row) => row.cells[column]?.dataset.value ?? "";
  const rows = [...body.rows];
  const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
  rows.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1; // what has no value comes last, always
    const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
    return ascending ? order : -order;
  });
  for (const other of headings) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  body.append(...rows);
}
headings.forEach((heading, column) => {
  const descends = () => heading.getAttribute("aria-sort") === "ascending";
  heading.querySelector("button").addEventListener("click", () => sortBy(column, !descends()));
});

const plain = (text) => text.toLowerCase().replaceAll("−", "-");

/** The words by which a run is found: its name, its status, and what was varied as value and as `key=value`. */
function wordsOf(run) {
  const varied = report.varied.flatMap((key, k) => {
    const values = run.varied[k].split(/,?\s+/).filter(Boolean); // several of jobs that are the same run
    return values.flatMap((value) => [value, `${key}=${value}`, `${key.split(".").pop()}=${value}`]);
  });
  const words = [...run.jobs, run.name.replace(/\*$/, ""), run.status, ...(run.bound ? ["upper", "bound"] : []), ...varied];
  return new Set(words.map(plain));
}
const known = report.runs.map(wordsOf);

/** Show the runs that have all words; one that is none as a whole may be a part of one. */
function filterRows() {
  const words = plain(byId("filter").value).split(/\s+/).filter(Boolean);
  const whole = words.map((word) => known.some((own) => own.has(word)));
  const has = (own, word, k) => (whole[k] ? own.has(word) : [...own].some((text) => text.includes(word)));
  let shown = 0;
  for (const row of body.rows) {
    const own = known[Number(row.dataset.run)];
    row.hidden = !words.every((word, k) => has(own, word, k));
    shown += !row.hidden;
  }
  byId("shown").textContent = shown < body.rows.length ? `${shown} of ${body.rows.length} runs` : "";
}
byId("filter").addEventListener("input", filterRows);

/** The run that each run is compared with: the chosen one, or the first on the same images. */
function baselineOf(run) {
  const chosen = report.runs[Number(byId("baseline").value)];
  return chosen && chosen.set === run.set ? chosen : finished.find((other) => other.set === run.set);
}

/** Fill in the columns that depend on the baseline. */
function compareAll() {
  const found = finished.map((run) => difference(run.number, baselineOf(run).number));
  const p = holm(found.map((one) => (one ? one.p : null)));
  finished.forEach((run, k) => {
    const row = body.querySelector(`tr[data-run="${run.number}"]`);
    const one = found[k];
    const put = (name, value, text) => {
      const cell = row.querySelector(`.${name}`);
      cell.dataset.value = value ?? "";
      cell.replaceChildren(...text);
    };
    const interval = document.createElement("small");
    if (one) interval.textContent = ` [${signed(one.low)}, ${signed(one.high)}]`;
    put("delta", one?.mean, one ? [signed(one.mean), interval] : [baselineOf(run) === run ? "baseline" : ""]);
    put("p", p[k], p[k] === null ? [] : [p[k] < 0.001 ? p[k].toExponential(1) : p[k].toFixed(3)]);
    put("counts", one?.wins, one ? [`${one.wins} / ${one.ties} / ${one.losses}`] : []);
  });
  for (const name of document.querySelectorAll(".baseline-name")) {
    name.textContent = report.runs[Number(byId("baseline").value)]?.label ?? "";
  }
  const sorted = headings.findIndex((heading) => heading.hasAttribute("aria-sort"));
  if (sorted >= 0) sortBy(sorted, headings[sorted].getAttribute("aria-sort") === "ascending");
}
if ("miou" in report.titles) { // there is none without true masks
  byId("baseline").addEventListener("change", compareAll);
  compareAll();
}
