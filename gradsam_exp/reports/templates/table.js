"use strict";
// The comparison: sorted by a click on a heading, filtered by words, against any baseline.

const comparison = byId("comparison");
const body = comparison.tBodies[0];
const headings = [...comparison.tHead.rows[0].cells];

const nameOf = (heading) => heading.textContent.trim();

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
  remember("sort", `${ascending ? "" : "-"}${nameOf(heading)}`);
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

const COMPARED = /^([^<>=!]+)(>=|<=|!=|>|<)(-?[\d.]+(?:e-?\d+)?)$/;
const holds = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, "!=": (a, b) => a !== b,
};

/** The numbers that a run has for a knob, a metric, `delta`, `p` or `seconds`. */
function numbersOf(run, key) {
  if (key === "seconds") return [run.seconds];
  if (key === "delta" || key === "p") return [difference(run.number, baselineOf(run).number)?.[key === "p" ? "p" : "mean"]];
  const metric = Object.keys(report.titles).find((name) => [name, report.titles[name]].map(plain).includes(key));
  if (metric) return [run.metrics[metric][0]];
  const at = report.varied.findIndex((name) => plain(name) === key || plain(name).split(".").pop() === key);
  return at < 0 ? [] : run.varied[at].split(/,?\s+/).filter(Boolean).map(Number);
}

/** The runs that the reader has asked for, by number; everything on the page shows these. */
let visible = new Set(finished.map((run) => run.number));
const isVisible = (number) => visible.has(number);

/** Show the runs for which all words hold; one that is none as a whole may be a part of one. */
function filterRows() {
  const text = byId("filter").value;
  const words = plain(text).split(/\s+/).filter(Boolean);
  const compared = words.map((word) => word.match(COMPARED));
  const whole = words.map((word) => known.some((own) => own.has(word)));
  const has = (run, word, k) => {
    if (compared[k]) {
      const [, key, sign, number] = compared[k];
      return numbersOf(run, key).some((value) => Number.isFinite(value) && holds[sign](value, Number(number)));
    }
    const own = known[run.number];
    return whole[k] ? own.has(word) : [...own].some((text) => text.includes(word));
  };
  const shown = finished.filter((run) => words.every((word, k) => has(run, word, k)));
  visible = new Set(shown.map((run) => run.number));
  for (const row of body.rows) row.hidden = !isVisible(Number(row.dataset.run));
  byId("shown").textContent = shown.length < finished.length ? `${shown.length} of ${finished.length} runs` : "";
  remember("filter", text);
  document.dispatchEvent(new Event("runs"));
}
byId("filter").addEventListener("input", filterRows);

/** Let the reader leave out columns; the run's name stays. */
function hideColumn(column, hidden) {
  for (const row of comparison.rows) row.cells[column].hidden = hidden;
  const left = headings.filter((heading) => heading.hidden).map(nameOf);
  remember("without", left.join("~"));
}
const left = (address.get("without") ?? "").split("~");
headings.slice(1).forEach((heading, k) => {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !left.includes(nameOf(heading)) });
  box.addEventListener("change", () => hideColumn(k + 1, !box.checked));
  label.append(box, ` ${nameOf(heading)}`);
  byId("columns").append(label);
  if (!box.checked) hideColumn(k + 1, true);
});

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
  remember("base", byId("baseline").value);
  const sorted = headings.findIndex((heading) => heading.hasAttribute("aria-sort"));
  if (sorted >= 0) sortBy(sorted, headings[sorted].getAttribute("aria-sort") === "ascending");
}
/** Choose what the address says, if it is there. */
function restore(select, key) {
  const value = address.get(key);
  if (value !== null && [...select.options].some((option) => option.value === value)) select.value = value;
}
restore(byId("baseline"), "base");
const order = address.get("sort") ?? "";
if ("miou" in report.titles) { // there is none without true masks
  byId("baseline").addEventListener("change", compareAll);
  compareAll();
}
const ordered = headings.findIndex((heading) => [nameOf(heading), `-${nameOf(heading)}`].includes(order));
if (ordered >= 0) sortBy(ordered, !order.startsWith("-"));
byId("filter").value = address.get("filter") ?? "";
if (byId("filter").value) filterRows();
