"use strict";
// Plotly's charts: those that came ready with the content, and those that follow the reader's choices.

const [colourA, colourB] = [style("--a"), style("--b")];

/** Colours and margins of all charts, in light and dark. */
function themed(layout) {
  const titled = (axis) => (axis?.title ? { ...axis, title: { standoff: 8, ...axis.title } } : axis); // clear of ticks
  const axis = { gridcolor: style("--rule"), zerolinecolor: style("--rule"), automargin: true };
  return {
    margin: { l: 50, r: 12, t: 8, b: 44 },
    hovermode: "closest",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    uirevision: "same", // what the reader has enlarged stays so
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style("--ink"), size: 12 },
    autosize: true,
    xaxis: { ...axis, ...titled(layout.xaxis) },
    yaxis: { ...axis, ...titled(layout.yaxis) },
  };
}

const drawn = new Map(); // by a chart's id: what makes its data and its layout, of which some follow its width

/** Draw a chart now, and again when its width or the colours change. */
function draw(id, make) {
  drawn.set(id, make);
  return redraw(id);
}

function redraw(id) {
  const place = byId(id);
  const [data, layout] = drawn.get(id)();
  const options = { displayModeBar: false, showSendToCloud: false, plotlyServerURL: "" };
  const size = { width: place.clientWidth, height: layout.height ?? place.clientHeight };
  Plotly.react(place, data, themed({ ...layout, ...size }), options);
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", place.parentElement.querySelector("figcaption").textContent.trim());
  return place;
}

const redrawAll = () => [...drawn.keys()].forEach(redraw);

let waiting;
new ResizeObserver(() => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const changed = (id) => byId(id).clientWidth && byId(id).clientWidth !== byId(id).layout.width;
    [...drawn.keys()].filter(changed).forEach(redraw);
  }, 100);
}).observe(document.querySelector("main"));

function canDrawLines() {
  const found = document.createElement("canvas").getContext("webgl");
  found?.getExtension("WEBGL_lose_context")?.loseContext();
  return found !== null;
}

const anyVisible = (runs) => runs.some(isVisible);

/** A chart's line, band or cells without the runs that are filtered out. */
function ofVisible(trace) {
  const { meta, type } = trace;
  if (!meta) return trace;
  if (type === "heatmap") {
    const mean = (runs) => runs.reduce((sum, run) => sum + report.runs[run].metrics.miou[0], 0) / runs.length;
    const cell = (runs, value) => (runs.every(isVisible) ? value : anyVisible(runs) ? mean(runs.filter(isVisible)) : null);
    return { ...trace, z: trace.z.map((row, i) => row.map((value, j) => cell(meta[i][j], value))) };
  }
  const kept = (values) => values?.filter((_, k) => anyVisible(meta[k]));
  const error = trace.error_y && { ...trace.error_y, array: kept(trace.error_y.array), arrayminus: kept(trace.error_y.arrayminus) };
  return { ...trace, x: kept(trace.x), y: kept(trace.y), customdata: kept(trace.customdata), ...(error && { error_y: error }) };
}

function linesOfVisible(trace) {
  const kept = (values) => values.filter((_, k) => anyVisible(trace.meta[k]));
  const dimensions = trace.dimensions.map((one) => ({ ...one, values: kept(one.values) }));
  return { ...trace, dimensions, line: { ...trace.line, color: kept(trace.line.color) } };
}

function drawReady() {
  for (const chart of report.charts) {
    const { data, layout } = chart.figure;
    if (data[0].type !== "parcoords") {
      draw(chart.id, () => [data.map(ofVisible), layout]);
    } else if (!canDrawLines()) {
      byId(chart.id).textContent = "This browser draws no WebGL, which this chart needs.";
    } else { // takes longer than all others: drawn when it comes into view, or for paper
      addEventListener("beforeprint", () => drawParallel(chart));
      new IntersectionObserver(([entry], observer) => {
        if (!entry.isIntersecting) return;
        observer.disconnect();
        drawParallel(chart);
      }).observe(byId(chart.id));
    }
  }
}

function drawParallel({ id, figure: { data, layout } }) {
  draw(id, () => {
    const narrow = isNarrow(id);
    const lines = [{ ...linesOfVisible(data[0]), labelangle: narrow ? -35 : 0, labelside: "top" }];
    const longest = Math.max(...(data[0].dimensions[0].ticktext ?? []).map((text) => text.length));
    const left = Math.min(Math.max(narrow ? 40 : 80, 14 + 6 * longest), narrow ? 90 : 200);
    return [lines, { ...layout, margin: { l: left, r: 40, t: narrow ? 110 : 60, b: 24 } }];
  });
}
const isNarrow = (id) => byId(id).clientWidth < 600;
/** What runs are called on an axis: in full where that takes at most a third of the width. */
const longest = Math.max(...finished.map((run) => run.label.length));
const nameOn = (id, run) => (6.2 * longest > byId(id).clientWidth / 3 ? run.name : run.label);

/** The runs on the baseline's images against it, the best first; without any there is no chart. */
function drawForest() {
  if (!byId("forest") || !("miou" in report.titles)) return;
  const baseline = report.runs[Number(byId("baseline").value)];
  const found = (run) => (run === baseline ? { mean: 0, low: 0, high: 0 } : difference(run.number, baseline.number));
  const shown = finished.filter((run) => isVisible(run.number) || run === baseline).map((run) => [run, found(run)]);
  const compared = shown.filter(([, own]) => own).sort((one, other) => one[1].mean - other[1].mean);
  byId("forest").parentElement.hidden = compared.length < 2;
  drawn.delete("forest");
  if (compared.length > 1) draw("forest", () => forestOf(compared, baseline));
}

const quantile = (sorted, share) => {
  const at = share * (sorted.length - 1), below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
};

/** The ends of an axis through `always`, without the runs far outside the middle half: Tukey's outer fences (1977). */
function limitsOf(found, always = []) {
  const sorted = (values) => [...values].sort((a, b) => a - b);
  const means = sorted(found.map((one) => one.mean));
  const [low, high] = [quantile(means, 0.25), quantile(means, 0.75)];
  const reach = 3 * Math.max(high - low, quantile(sorted(found.map((one) => one.high - one.low)), 0.5));
  const kept = found.filter((one) => one.mean >= low - reach && one.mean <= high + reach);
  const ends = [Math.min(...always, ...kept.map((one) => one.low)), Math.max(...always, ...kept.map((one) => one.high))];
  const margin = 0.06 * (ends[1] - ends[0]) || 0.01;
  return [ends[0] - margin, ends[1] + margin];
}

function forestOf(shown, baseline) {
  const [low, high] = limitsOf(shown.map(([, found]) => found), [0]);
  const inset = 0.012 * (high - low); // an arrow's half, so that it stays clear of the names
  const name = ([run]) => nameOn("forest", run);
  const outside = shown.filter(([, found]) => found.mean < low || found.mean > high);
  const inside = shown.filter((one) => !outside.includes(one));
  const means = inside.map(([, found]) => found.mean);
  const symbol = ([run]) => (run === baseline ? "circle-open" : run.bound ? "diamond-open" : "circle");
  const data = [{
    type: "scatter", mode: "markers", x: means, y: inside.map(name),
    marker: { size: 8, color: report.series[0], symbol: inside.map(symbol) },
    error_x: {
      type: "data", symmetric: false, color: report.series[0], width: 3,
      array: inside.map(([, found]) => found.high - found.mean),
      arrayminus: inside.map(([, found]) => found.mean - found.low),
    },
    hovertemplate: "%{y}: %{x:+.4f}<extra></extra>",
  }, {
    type: "scatter", mode: "markers+text", x: outside.map(([, found]) => (found.mean < low ? low + inset : high - inset)), y: outside.map(name),
    marker: { size: 11, color: report.series[5], symbol: outside.map(([, found]) => (found.mean < low ? "triangle-left" : "triangle-right")) },
    text: outside.map(([, found]) => signed(found.mean)), cliponaxis: false, hoverinfo: "text+y",
    textposition: outside.map(([, found]) => (found.mean < low ? "middle right" : "middle left")),
  }];
  return [data, {
    height: 70 + (shown.length > 12 ? 18 : 24) * shown.length, uirevision: baseline.number, showlegend: false,
    xaxis: { title: { text: "Δ mIoU" }, range: [low, high], zeroline: true, zerolinecolor: style("--ink"), zerolinewidth: 1.5 },
    yaxis: { type: "category", categoryorder: "array", categoryarray: shown.map(name), tickfont: { size: 11 }, dtick: 1, range: [-0.7, shown.length - 0.3] },
  }];
}

/** mIoU against seconds, and the runs that no other beats in both. */
function drawPareto() {
  if (!byId("pareto")) return;
  const shown = finished.filter((run) => isVisible(run.number) && run.seconds !== null && run.seconds !== undefined);
  const sets = report.sets.map((_, set) => shown.filter((run) => run.set === set && run.metrics.miou[0] !== null)).filter((runs) => runs.length);
  byId("pareto").parentElement.hidden = !sets.length;
  drawn.delete("pareto");
  const seconds = shown.map((run) => run.seconds), least = Math.min(...seconds), most = Math.max(...seconds);
  const wide = least > 0 && most > 10 * least; // few slow runs would press all others together
  const ticks = wide ? ticksOf(least, most) : [];
  const xaxis = wide
    ? { title: { text: "seconds (logarithmic)" }, type: "log", tickmode: "array", tickvals: ticks, ticktext: ticks.map(String) }
    : { title: { text: "seconds" }, rangemode: "tozero" };
  if (sets.length) {
    const range = paretoRange(sets.flat().map((run) => run.metrics.miou[0]));
    draw("pareto", () => [sets.flatMap((runs, k) => paretoOf(runs, k, range)), { xaxis, yaxis: { title: { text: "mIoU" }, range }, showlegend: false }]);
  }
}

/** The ends of the mIoU axis: what is far below the others is cut, what is far above them never. */
function paretoRange(mious) {
  const [low, high] = limitsOf(mious.map((mean) => ({ mean, low: mean, high: mean }))), best = Math.max(...mious);
  return [low, Math.max(high, best + 0.06 * (best - low))];
}

/** 1, 2, 5, 10, 20, … around two numbers above 0. */
function ticksOf(least, most) {
  const first = Math.floor(Math.log10(least)), last = Math.ceil(Math.log10(most));
  const decades = Array.from({ length: last - first + 1 }, (_, k) => first + k);
  return decades.flatMap((power) => [1, 2, 5].map((digit) => Number(`${digit}e${power}`)));
}

function paretoOf(all, k, [low, high]) {
  const y = (run) => run.metrics.miou[0];
  const below = all.filter((run) => y(run) < low), runs = all.filter((run) => !below.includes(run));
  let best = -Infinity;
  const front = runs.filter((run) => !run.bound).sort((one, other) => one.seconds - other.seconds || y(other) - y(one))
    .filter((run) => y(run) > best && ((best = y(run)), true));
  const color = report.series[k % report.series.length];
  const common = { type: "scatter", hovertemplate: "%{text}<br>%{x:.1f} s, %{y:.3f}<extra></extra>" };
  const named = (run) => (run.label.length > 24 ? run.name : run.label);
  return [
    { ...common, mode: "text", x: front.map((run) => run.seconds), y: front.map(y), text: front.map((run) => `${named(run)}\u00a0\u00a0`), textposition: "middle left", textfont: { size: 11 }, cliponaxis: false, hoverinfo: "skip", hovertemplate: null },
    { ...common, mode: "lines", x: front.map((run) => run.seconds), y: front.map(y), line: { color, shape: "hv", width: 1 }, hoverinfo: "skip", hovertemplate: null },
    {
      ...common, mode: "markers", x: runs.map((run) => run.seconds), y: runs.map(y), text: runs.map((run) => run.label),
      marker: { color, size: 8, symbol: runs.map((run) => (run.bound ? "diamond-open" : front.includes(run) ? "circle" : "circle-open")) },
    },
    {
      ...common, mode: "markers+text", x: below.map((run) => run.seconds), y: below.map(() => low + 0.02 * (high - low)),
      marker: { size: 11, color: report.series[5], symbol: "triangle-down" }, text: below.map((run) => y(run).toFixed(3)),
      hovertext: below.map((run) => run.label), textposition: "middle right", cliponaxis: false, hovertemplate: "%{hovertext}<br>%{x:.1f} s, %{text}<extra></extra>",
    },
  ];
}

/** IoU of the images in `chosen` of one run, without those that have none. */
const iousOf = (run, chosen) => chosen.map((k) => run.iou[k]).filter((value) => value !== null);

function drawBoxes(chosen, set) {
  const runs = finished.filter((run) => run.set === set && isVisible(run.number)).reverse();
  const box = (run) => ({
    type: "box", orientation: "h", x: iousOf(run, chosen), name: nameOn("boxes", run), boxmean: true, boxpoints: false,
    marker: { color: report.series[0] }, line: { width: 1.2 }, showlegend: false,
  });
  const layout = {
    height: 70 + 30 * runs.length, xaxis: { title: { text: "IoU" }, range: [-0.02, 1.02] }, yaxis: { type: "category", tickfont: { size: 11 } },
  };
  draw("boxes", () => [runs.map(box), layout]);
}

function drawCumulative(chosen, a, b) {
  const runs = a === b ? [["A", a, colourA, "solid"]] : [["A", a, colourA, "solid"], ["B", b, colourB, "dash"]];
  const data = runs.map(([name, run, color, dash]) => {
    const x = iousOf(run, chosen).sort((one, other) => one - other);
    const y = x.map((_, k) => (k + 1) / x.length);
    const [all, share] = x.length ? [[0, ...x, 1], [0, ...y, 1]] : [[], []];
    return { type: "scatter", mode: "lines", x: all, y: share, name, line: { color, dash, width: 2.5, shape: "hv" } };
  });
  const layout = {
    xaxis: { title: { text: "IoU" }, range: [0, 1] }, yaxis: { title: { text: "share of images" }, range: [0, 1] },
    showlegend: true,
  };
  draw("cumulative", () => [data, layout]);
}

const LOOKS = [ // better for A, better for B, equal
  { name: "A is better", color: colourA, symbol: "triangle-down" },
  { name: "B is better", color: colourB, symbol: "triangle-up" },
  { name: "equal", color: "#8c8c8c", symbol: "circle" },
];

function drawScatter(chosen, a, b, ids, selected, onPick) {
  const groups = LOOKS.map(() => []);
  for (const k of chosen) {
    if (a.iou[k] === null || b.iou[k] === null) continue;
    const more = a.iou[k] - b.iou[k];
    groups[Math.abs(more) <= report.tie ? 2 : more > 0 ? 0 : 1].push(k);
  }
  const data = groups.map((group, look) => ({
    type: "scatter", mode: "markers", name: `${LOOKS[look].name} (${group.length})`, customdata: group,
    x: group.map((k) => a.iou[k]), y: group.map((k) => b.iou[k]), text: group.map((k) => ids[k]),
    marker: { color: LOOKS[look].color, symbol: LOOKS[look].symbol, size: 7, opacity: 0.75 },
    hovertemplate: "%{text}<br>A %{x:.3f}, B %{y:.3f}<extra></extra>",
  }));
  const place = draw("scatter", () => {
    const ring = {
      type: "scatter", mode: "markers", x: [a.iou[selected]], y: [b.iou[selected]], showlegend: false, hoverinfo: "skip",
      marker: { size: 16, symbol: "circle-open", color: style("--ink"), line: { width: 2 } },
    };
    const line = { type: "line", x0: 0, y0: 0, x1: 1, y1: 1, line: { color: style("--quiet"), width: 1, dash: "dot" } };
    return [[...data, ring], {
      shapes: [line],
      xaxis: { title: { text: "IoU of A" }, range: [-0.03, 1.03] }, yaxis: { title: { text: "IoU of B" }, range: [-0.03, 1.03] },
    }];
  });
  place.removeAllListeners("plotly_click");
  place.on("plotly_click", (event) => event.points[0].customdata !== undefined && onPick(event.points[0].customdata));
}

byId("baseline").addEventListener("change", drawForest);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
drawReady();
drawForest();
drawPareto();
document.addEventListener("runs", () => {
  drawForest();
  drawPareto();
  report.charts.filter((chart) => drawn.has(chart.id)).forEach((chart) => redraw(chart.id));
});
/** Draw all charts anew in the colours and the width of paper, or back again. */
function forPaper(printing) {
  document.documentElement.classList.toggle("printing", printing);
  redrawAll();
}
addEventListener("beforeprint", () => forPaper(true));
addEventListener("afterprint", () => forPaper(false));
