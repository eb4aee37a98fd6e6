"use strict";
// The page: it keeps the state, asks the program what becomes of it, and shows the answer.

const token = new URLSearchParams(location.search).get("token");
const page = Math.random().toString(36).slice(2);
const SOON = 200; // ms without a change, before what takes longer is asked for
const NEAR = 10; // px of the screen: a click this near to a prompt takes it away
const colourOfMask = () => style("--b"), colourOfA = () => style("--a");

const first = () => ({ choices: {}, knobs: {}, image: 0, example: 0, upload: null, hand: null });
let state = first();
let pinned = null; // the setting A
let along = ""; // the knob of the strip
let shown = null; // the last answer
let names = []; // of the images: [number, name, classes]
let worst = [];
const uploads = [];
const settled = (one) => ({ choices: one.choices, knobs: one.knobs });
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

// Asking

/** Send a request and read the lines of its answer; returns the answer, or null if a newer request replaced it. */
async function send(address, body, signal, tell = () => {}) {
  const answer = await fetch(address, { method: "POST", body, signal, headers: { "X-Token": token } });
  if (!answer.headers.get("content-type").includes("ndjson")) {
    const text = await answer.text();
    throw new Error(text.startsWith("{") ? JSON.parse(text).error : text);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the program has ended: start it again");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const message of lines.map((line) => JSON.parse(line))) {
      if ("answer" in message) return message.answer;
      if ("error" in message) throw new Error(message.error);
      if ("dropped" in message) return null;
      tell(message);
    }
  }
}

const running = {};
/** Ask one question of a kind, in place of the one before; null if it was replaced. */
async function ask(kind, question, tell) {
  running[kind]?.abort();
  const own = (running[kind] = new AbortController());
  try {
    return await send(`ask/${kind}`, JSON.stringify({ page, ...question }), own.signal, tell);
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error.name === "TypeError" ? new Error("the program does not answer: is it still running?") : error;
  }
}

function say(problem) {
  byId("problem").hidden = !problem;
  byId("problem").textContent = problem ?? "";
}
const progress = (text) => (byId("status").textContent = text);

let busy = false, waiting = false;
/** Ask for the picture of the state as it is now; while one is on its way, the newest state waits. */
async function refresh() {
  remember();
  if (busy) {
    waiting = true;
    return;
  }
  busy = true;
  try {
    do {
      waiting = false;
      const asked = structuredClone(state);
      const answer = await ask("picture", { state: asked }, (told) => told.now && progress(`${told.now} …`));
      if (answer) {
        await show(answer);
        document.body.dataset.shown = String(Number(document.body.dataset.shown ?? 0) + 1);
      }
    } while (waiting);
  } catch (error) {
    say(error.message);
  }
  busy = false;
  progress("");
  if (waiting) refresh();
  else later();
}

let timer = 0;
/** What takes longer is asked for when nothing has changed for a moment. */
function later() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (shown?.problem) return;
    if (byId("live").checked) measure("sample", byId("sample"));
    drawStrip();
    showSweep();
  }, SOON);
}

// The state in the address

function remember() {
  const kept = { s: state, a: pinned ?? undefined, k: along || undefined };
  history.replaceState(null, "", `${location.pathname}${location.search}#${encodeURIComponent(JSON.stringify(kept))}`);
}

function recall() {
  try {
    const kept = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    state = { ...first(), ...kept.s };
    pinned = kept.a ?? null;
    along = kept.k ?? "";
  } catch {
    state = first(); // no state, or none that is understood
  }
}

// Controls

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Set a knob; null: as it is by default. */
function set(key, value) {
  state.knobs[key] = value;
  refresh();
}

function choose(group, option) {
  state.choices[group] = option;
  for (const key of Object.keys(state.knobs)) {
    if (key.startsWith(`${group}.`) && key !== "explainer.target") delete state.knobs[key]; // of the plug-in before
  }
  refresh();
}

const parsed = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text.trim());

/** The control of one knob, and what brings it up to date. */
function knobOf(group, knob) {
  const id = `${group}-${knob.name}`, reason = make("span", { className: "reason", id: `${id}-reason` });
  const label = make("label", { htmlFor: id, textContent: knob.key.startsWith(`${group}.`) ? knob.name : knob.key, title: knob.about });
  const box = make("div", { className: "knob" }, label);
  const inputs = [];
  if (knob.kind === "choice") {
    const select = make("select", { id });
    select.append(...knob.choices.map((one) => new Option(String(one), JSON.stringify(one))));
    select.addEventListener("change", () => set(knob.key, JSON.parse(select.value)));
    inputs.push([select, (value) => (select.value = JSON.stringify(value))]);
  } else if (knob.kind === "check") {
    const tick = make("input", { id, type: "checkbox" });
    tick.addEventListener("change", () => set(knob.key, tick.checked));
    inputs.push([tick, (value) => (tick.checked = value)]);
  } else {
    const text = make("input", { id, type: "text", className: knob.kind === "range" ? "" : "wide", readOnly: knob.kind === "fixed" });
    if (knob.kind === "range") {
      const slider = make("input", { type: "range", min: knob.low, max: knob.high, step: knob.step });
      slider.setAttribute("aria-label", knob.name);
      slider.addEventListener("input", () => {
        text.value = slider.value;
        set(knob.key, Number(slider.value));
      });
      inputs.push([slider, (value) => typeof value === "number" && (slider.value = value)]);
      if (knob.words.length) {
        const words = make("datalist", { id: `${id}-words` }, ...knob.words.map((word) => new Option(word)));
        text.setAttribute("list", words.id);
        box.append(words);
      }
    }
    text.addEventListener("change", () => knob.kind !== "fixed" && set(knob.key, parsed(text.value)));
    inputs.push([text, (value) => (text.value = typeof value === "object" ? JSON.stringify(value) : value)]);
  }
  box.append(...inputs.map(([input]) => input), reason);
  const update = (now) => {
    box.classList.toggle("off", Boolean(now.off));
    reason.textContent = now.off || (knob.kind === "fixed" ? "set it on the command line" : "");
    for (const [input, show] of inputs) {
      if (input !== document.activeElement || input.type !== "text") show(now.value);
      input.disabled = Boolean(now.off);
      input.setAttribute("aria-describedby", reason.id);
    }
  };
  return [box, update];
}

/** A select with a label above. */
function selectOf(id, text, options, change) {
  const select = make("select", { id });
  select.append(...options.map((one) => new Option(one)));
  select.addEventListener("change", () => change(select.value));
  return [make("div", { className: "knob" }, make("label", { htmlFor: id, textContent: text }), select), select];
}

const TITLES = { explainer: "Explainer", refine: "Refinement", pipeline: "Strategy", selector: "Selector" };
const built = {}; // of each group: what its controls were made from, and what brings them up to date

function buildGroup(group, { options, knobs }, controls) {
  const [box, select] = selectOf(group, group, options, (option) => choose(group, option));
  const about = make("p", { className: "quiet" }), reason = make("p", { className: "reason" });
  const parts = make("fieldset", {}, make("legend", { textContent: TITLES[group] }), box, about, reason);
  const more = [];
  if (group === "explainer") {
    const targets = ["predicted", "label", ...controls.class_names];
    const [which, target] = selectOf("target", "class that is explained", targets, (value) => set("explainer.target", value));
    parts.append(which);
    more.push((now) => {
      if (![...target.options].some((one) => one.value === now.target)) target.append(new Option(now.target));
      target.value = now.target;
    });
    if (controls.layers.length) {
      const [where, layer] = selectOf("layer", "layer", controls.layers, (value) => set("explainer.target_layers", [value]));
      parts.append(where);
      more.push((now) => {
        const name = now.layer?.length === 1 ? now.layer[0] : (now.layer ?? []).join(", ");
        if (![...layer.options].some((one) => one.value === name)) layer.append(new Option(name));
        layer.value = name;
      });
    }
  }
  const updates = knobs.map((knob) => {
    const [node, update] = knobOf(group, knob);
    parts.append(node);
    return update;
  });
  return {
    node: parts,
    update(now, all) {
      select.value = now.chosen;
      about.textContent = now.about;
      reason.textContent = now.off;
      select.disabled = Boolean(now.off);
      updates.forEach((update, k) => update(now.knobs[k]));
      more.forEach((update) => update(all));
    },
  };
}

/** Show the controls of the chosen plug-ins; those that stay are not made again, so that focus stays where it is. */
function showControls(controls) {
  for (const [group, now] of Object.entries(controls.groups)) {
    const made = JSON.stringify([
      now.chosen, now.options, group === "explainer" && [controls.layers, controls.class_names],
      now.knobs.map(({ value, off, ...fixed }) => (fixed.kind === "range" ? { ...fixed, low: 0, high: 0, step: 0 } : fixed)),
    ]);
    if (built[group]?.made !== made) {
      const focused = document.activeElement?.id;
      const fresh = { ...buildGroup(group, now, controls), made };
      if (built[group]) built[group].node.replaceWith(fresh.node);
      else byId("knobs").append(fresh.node);
      built[group] = fresh;
      if (focused) byId(focused)?.focus();
    }
    built[group].update(now, controls);
  }
  const known = Object.values(controls.groups).flatMap(({ knobs }) => knobs.filter((one) => !one.off && stripValues(one).length > 1));
  if (!known.some((knob) => knob.key === along)) along = (known.find((knob) => knob.key === "fg_threshold") ?? known[0])?.key ?? "";
  fill(byId("along"), known.map((knob) => [knob.key, knob.key]), along);
}

// Pictures

const SIZE = 420;
const hatch = (pen, text, [width, height], zoom) => {
  const cold = decodeMask(text, width, height);
  pen.save();
  const area = new Path2D();
  cold.forEach((value, k) => value && area.rect((k % width) * zoom, Math.floor(k / width) * zoom, zoom, zoom));
  pen.clip(area);
  pen.strokeStyle = style("--bg-point");
  pen.lineWidth = 2;
  pen.beginPath();
  for (let at = -height * zoom; at < width * zoom; at += 9) {
    pen.moveTo(at, 0);
    pen.lineTo(at + height * zoom, height * zoom);
  }
  pen.stroke();
  pen.restore();
};

async function replaceCanvas(place, ...given) {
  const canvas = await canvasOf(...given);
  place.replaceChildren(canvas);
  return canvas;
}

const numbers = (answer) => `IoU ${fixed(answer.iou)}, predicted IoU ${fixed(answer.predicted_iou)}`;

async function drawScene() {
  const { image, prompts } = shown, { size } = image, drawn = [layers.picture(image.url)];
  if (byId("show-heat").checked) drawn.push(layers.heat(shown.heat, false));
  if (byId("show-cold").checked && shown.cold) drawn.push((pen, zoom) => hatch(pen, shown.cold, size, zoom));
  if (byId("show-warm").checked && shown.warm) drawn.push(layers.mask(shown.warm, size, style("--fg-point")));
  if (byId("show-truth").checked && shown.truth) drawn.push(layers.mask(shown.truth, size, style("--truth"), true));
  drawn.push(layers.prompts(prompts));
  if (cross) drawn.push(drawCross);
  const points = [...prompts[1]].filter((label) => label === "1").length;
  const text = `${image.name}, heatmap of ${shown.explained}, ${points} foreground and ${prompts[1].length - points} background points, ${prompts[2].length / 4} boxes`;
  const focused = byId("stage").contains(document.activeElement);
  const canvas = await replaceCanvas(byId("stage"), size, SIZE, text, drawn, MARGIN);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-describedby", "by-hand");
  listen(canvas);
  if (focused) canvas.focus();
}

async function drawKept(place, answer, letter, colour) {
  const { image, truth, mask } = answer, drawn = [layers.picture(image.url)];
  if (truth) drawn.push(layers.mask(truth, image.size, style("--truth"), true));
  drawn.push(layers.mask(mask, image.size, colour));
  const text = `${letter}${numbers(answer)}`;
  await replaceCanvas(place.querySelector(".drawn"), image.size, SIZE, `the mask that is kept, ${text}`, drawn, MARGIN);
  const bound = answer.upper_bound ? " · upper bound: looks at the truth" : "";
  place.querySelector("figcaption").textContent = `${text}${answer.rounds > 1 ? ` · ${answer.rounds} rounds` : ""}${bound}`;
}

async function drawOffered() {
  const { image, truth } = shown;
  const figures = await Promise.all(shown.candidates.map(async (one) => {
    const drawn = [layers.picture(image.url), truth ? layers.mask(truth, image.size, style("--truth"), true) : () => {}];
    drawn.push(layers.mask(one.mask, image.size, colourOfMask()));
    const text = make("figcaption", {}, make("b", { textContent: one.name }), ` ${numbers(one)}`);
    return make("figure", { className: one.kept ? "best" : "" }, await canvasOf(image.size, 220, `${one.name}, ${numbers(one)}`, drawn, MARGIN), text);
  }));
  if (shown.queries > 1) figures.push(make("p", { className: "quiet", textContent: `one of ${shown.queries} queries` }));
  if (!figures.length) figures.push(make("p", { textContent: "Nothing was asked." }));
  byId("offered").replaceChildren(...figures);
}

/** Show an answer of the program. */
async function show(answer) {
  const before = shown;
  say(answer.problem);
  byId("command").textContent = answer.command;
  shown = answer.problem ? { ...before, ...answer } : answer;
  showControls({ ...answer.controls, class_names: shown.class_names ?? [] });
  if (answer.problem || !shown.image) return;
  const ranked = shown.ranked.map(([name, share]) => `${name} ${(100 * share).toFixed(1)} %`).join(", ");
  byId("seen").replaceChildren(
    make("b", { textContent: shown.image.name }), shown.class_name ? ` is ${shown.class_name}` : "", ` · seen as ${ranked || shown.predicted}`,
    ` · the heatmap explains ${shown.explained}${shown.empty ? ", and is empty" : ""}`,
  );
  byId("notes").replaceChildren(...shown.notes.map((note) => make("li", { textContent: note })));
  byId("reset").hidden = state.hand === null;
  byId("examples").hidden = shown.image.examples.length < 2;
  fill(byId("example"), shown.image.examples.map((name, k) => [k, name]), state.example);
  await Promise.all([drawScene(), drawKept(byId("kept"), shown, pinned ? "B: " : "", colourOfMask()), drawOffered()]);
  showPinned();
}

// Prompts by hand

let cross = null; // where the keyboard's cross is, px of the picture as it is shown

function drawCross(pen, zoom) {
  const [x, y] = cross.map((at) => (at + 0.5) * zoom);
  pen.strokeStyle = style("--accent");
  pen.lineWidth = 2;
  pen.strokeRect(x - 6, y - 6, 12, 12);
}

/** The prompts as they are now, in pixels of the image. */
function byHand() {
  if (state.hand) return state.hand;
  const [xy, labels, boxes] = shown.prompts, { scale } = shown.image;
  const real = (at) => (at + 0.5) / scale - 0.5;
  const points = [...labels].map((label, k) => [real(xy[2 * k]), real(xy[2 * k + 1]), Number(label)]);
  return { points, box: boxes.length >= 4 ? boxes.slice(0, 4).map(real) : null };
}

const inside = ([x, y]) => {
  const [width, height] = shown.image.pixels;
  return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
};

function give(hand) {
  state.hand = { points: hand.points.slice(0, 200), box: hand.box };
  refresh();
}

/** Add a point at `(x, y)` px of the image, or take away the one that is within `near` px. */
function click(at, label, near) {
  const hand = structuredClone(byHand());
  const apart = hand.points.map(([x, y]) => Math.hypot(x - at[0], y - at[1]));
  const nearest = apart.indexOf(Math.min(...apart));
  if (nearest >= 0 && apart[nearest] <= near) hand.points.splice(nearest, 1);
  else if (label !== null) hand.points.push([...inside(at).map((one) => Math.round(one * 10) / 10), label]);
  give(hand);
}

function listen(canvas) {
  const { size, scale } = shown.image;
  const perPixel = () => (canvas.clientWidth / canvas.width) * ((canvas.width - 2 * MARGIN) / size[0]) * scale; // px of the screen
  const place = (event) => {
    const border = MARGIN * (canvas.clientWidth / canvas.width);
    return [event.offsetX, event.offsetY].map((at) => (at - border) / perPixel() - 0.5);
  };
  let start = null;
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    start = { at: place(event), x: event.clientX, y: event.clientY };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const dragged = Math.hypot(event.clientX - start.x, event.clientY - start.y) > NEAR;
    if (dragged) {
      const [one, other] = [inside(start.at), inside(place(event))];
      give({ ...byHand(), box: [...one.map((at, k) => Math.min(at, other[k])), ...one.map((at, k) => Math.max(at, other[k]))] });
    } else click(start.at, event.button === 2 || event.shiftKey ? 0 : 1, NEAR / perPixel());
    start = null;
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const far = Math.max(1, Math.round(size[0] / 64)) * (event.shiftKey ? 5 : 1);
    cross ??= size.map((length) => Math.round(length / 2));
    const at = cross.map((one) => (one + 0.5) / scale - 0.5);
    if (event.key in moves) {
      cross = cross.map((one, k) => Math.min(Math.max(one + far * moves[event.key][k], 0), size[k] - 1));
      drawScene();
    } else if (event.key === "f") click(at, 1, 0.4);
    else if (event.key === "b") click(at, 0, 0.4);
    else if (event.key === "Delete" || event.key === "Backspace") click(at, null, Infinity);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

// A, the sample, the strip

let pinnedOf = ""; // what A is drawn of
async function showPinned() {
  for (const id of ["unpin", "back", "pinned"]) byId(id).hidden = pinned === null;
  const asked = JSON.stringify([pinned, state.image, state.example, state.upload]);
  if (pinned === null || asked === pinnedOf) return;
  try {
    const answer = await ask("pinned", { state: { ...state, ...pinned, hand: null } });
    if (!answer || pinned === null) return;
    if (answer.problem) byId("pinned").querySelector("figcaption").textContent = `A: ${answer.problem}`;
    else await drawKept(byId("pinned"), answer, "A: ", colourOfA());
    pinnedOf = asked;
  } catch (error) {
    byId("pinned").querySelector("figcaption").textContent = `A: ${error.message}`;
  }
}

const interval = ([low, high]) => `[${fixed(low)}, ${fixed(high)}]`;

async function measure(kind, place) {
  const other = pinned !== null && !same(pinned, settled(state)) ? pinned : null;
  const told = ({ done, total }) => total && (place.textContent = `measuring, ${done} of ${total} images …`);
  try {
    const found = await ask(kind, { state: settled(state), other }, told);
    if (!found) return;
    let text = `mIoU ${fixed(found.miou)} ${interval(found.ci95)} on ${found.n === found.of ? "all " : ""}${found.n}${found.n < found.of ? ` of ${found.of}` : ""} examples`;
    if (found.difference) {
      const { mean, ci95, counts } = found.difference;
      text += `; B − A ${signed(mean)} [${signed(ci95[0])}, ${signed(ci95[1])}], better on ${counts[0]}, equal on ${counts[1]}, worse on ${counts[2]}`;
    }
    place.textContent = text;
    place.title = found.note;
  } catch (error) {
    place.textContent = error.message;
  }
}

/** The values that the strip shows of a knob. */
function stripValues(knob) {
  if (knob.kind === "choice") return knob.choices.slice(0, report.strip);
  if (knob.kind === "check") return [false, true];
  if (knob.kind !== "range") return [];
  const steps = Math.round((knob.high - knob.low) / knob.step), most = Math.min(steps, report.strip - 1);
  const at = Array.from({ length: most + 1 }, (_, k) => knob.low + Math.round((k * steps) / Math.max(most, 1)) * knob.step);
  return at.map((value) => Number(value.toPrecision(9)));
}

const knobAlong = () => Object.values(shown.controls.groups).flatMap(({ knobs }) => knobs).find((knob) => knob.key === along);
const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

function plot(values, ious) {
  const width = Math.max(byId("strip").clientWidth, 240), height = 170, left = 34, bottom = 24, knob = knobAlong();
  const x = (k) => left + 8 + (k * (width - left - 20)) / Math.max(values.length - 1, 1), y = (iou) => 8 + (1 - iou) * (height - bottom - 12);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" });
  for (const iou of [0, 0.5, 1]) {
    svg.append(shape("line", { class: "axis", x1: left, x2: width, y1: y(iou), y2: y(iou) }), shape("text", { x: 0, y: y(iou) + 4 }, iou.toFixed(1)));
  }
  const known = ious.map((iou, k) => [iou, k]).filter(([iou]) => iou !== null);
  svg.append(shape("path", { class: "curve", d: known.map(([iou, k], n) => `${n ? "L" : "M"}${x(k)},${y(iou)}`).join("") }));
  values.forEach((value, k) => {
    if (k % Math.ceil((60 * values.length) / width) === 0) svg.append(shape("text", { x: x(k), y: height - 6, "text-anchor": "middle" }, String(value)));
    if (same(value, knob?.value)) svg.append(shape("line", { class: "here", x1: x(k), x2: x(k), y1: 4, y2: height - bottom }));
  });
  for (const [iou, k] of known) {
    const dot = shape("circle", { cx: x(k), cy: y(iou), r: 5, role: "button", tabindex: 0, "aria-label": `${along}=${values[k]}: IoU ${fixed(iou)}` });
    dot.append(shape("title", {}, `${along}=${values[k]}: IoU ${fixed(iou)}`));
    dot.addEventListener("click", () => set(along, values[k]));
    dot.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && (event.preventDefault(), set(along, values[k])));
    svg.append(dot);
  }
  const kept = byId("strip").contains(document.activeElement) ? [...byId("strip").querySelectorAll("circle")].indexOf(document.activeElement) : -1;
  byId("strip").querySelector(".drawn").replaceChildren(svg);
  if (kept >= 0) svg.querySelectorAll("circle")[kept]?.focus();
  const reached = known.map(([iou]) => iou);
  byId("strip").querySelector("figcaption").textContent = reached.length
    ? `IoU from ${fixed(Math.min(...reached))} to ${fixed(Math.max(...reached))} over ${reached.length} values of ${along}; choose a point to set it`
    : "no value of this knob gives a mask that can be scored here";
}

let stripOf = "";
async function drawStrip() {
  const knob = shown && knobAlong();
  if (!knob || shown.truth === null) {
    byId("strip").querySelector(".drawn").replaceChildren();
    byId("strip").querySelector("figcaption").textContent = shown?.truth === null ? "The image has no true mask, and so no IoU." : "";
    return;
  }
  const values = stripValues(knob), { [along]: moved, ...others } = state.knobs;
  const asked = JSON.stringify([along, values, others, state.choices, state.image, state.example, state.upload]);
  if (asked === stripOf.asked) return plot(values, stripOf.ious); // only the knob itself has moved
  try {
    const found = await ask("strip", { state: { ...state, hand: null }, key: along, values }, ({ ious }) => ious && plot(values.slice(0, ious.length), ious));
    if (!found) return;
    stripOf = { asked, ious: found.ious };
    plot(found.values, found.ious);
  } catch (error) {
    byId("strip").querySelector("figcaption").textContent = error.message;
  }
}

/** Show the command of a sweep: over what differs from A, otherwise over some values of the strip's knob. */
async function showSweep() {
  const varied = {};
  if (pinned && !same(pinned, settled(state))) {
    const { groups } = shown.controls;
    for (const [group, option] of Object.entries(state.choices)) {
      if (pinned.choices[group] !== option && pinned.choices[group]) varied[group] = [pinned.choices[group], option];
    }
    for (const knob of Object.values(groups).flatMap(({ knobs }) => knobs)) {
      const [one, other] = [pinned.knobs[knob.key], state.knobs[knob.key]];
      if (one !== undefined && other !== undefined && !same(one, other)) varied[knob.key] = [one, other];
    }
  }
  const knob = knobAlong();
  if (!Object.keys(varied).length && knob) {
    const values = stripValues(knob);
    varied[along] = values.filter((_, k) => k % Math.ceil(values.length / 5) === 0);
  }
  const answer = await fetch("sweep", { method: "POST", headers: { "X-Token": token }, body: JSON.stringify({ page, state: settled(state), varied }) }).catch(() => null);
  if (answer?.ok) byId("sweep").textContent = (await answer.json()).command;
}

// Images

function listed() {
  const only = byId("only").value, order = byId("order")?.value;
  const byNumber = new Map(names.map((one) => [one[0], one]));
  const all = order === "worst" ? worst.filter(([k]) => byNumber.has(k)).map(([k, iou]) => [...byNumber.get(k), iou]) : names;
  return all.filter(([, , classes]) => !only || classes.includes(only));
}

function showList() {
  const own = listed().map(([k, name, classes, iou]) => [k, `${name} · ${classes.join(", ")}${iou === undefined ? "" : ` · IoU ${fixed(iou)}`}`]);
  const dropped = uploads.map((name, k) => [`u${k}`, `${name} · dropped here`]);
  const now = state.upload === null ? String(state.image) : `u${state.upload}`;
  const options = [...dropped, ...own];
  if (!options.some(([value]) => String(value) === now)) options.unshift([now, shown?.image?.name ?? `image ${state.image}`]);
  fill(byId("image"), options, now);
}

function pick(value) {
  const text = String(value);
  Object.assign(state, text.startsWith("u") ? { upload: Number(text.slice(1)) } : { upload: null, image: Number(text) }, { example: 0, hand: null });
  cross = null;
  byId("image").value = text;
  refresh();
}

function step(by) {
  const options = [...byId("image").options], at = byId("image").selectedIndex + by;
  pick(options[(at + options.length) % options.length].value);
}

async function drop(file) {
  progress(`reading ${file.name} …`);
  try {
    const address = `upload?page=${page}&name=${encodeURIComponent(file.name)}`;
    const found = await send(address, file, undefined, (told) => progress(`${told.now} …`));
    uploads[found.upload] = found.name;
    state.upload = found.upload;
    showList();
    pick(`u${found.upload}`);
  } catch (error) {
    say(error.message);
  }
  progress("");
}

async function listNames() {
  const classes = new Set();
  let drawn = 0;
  try {
    const found = await ask("names", {}, (told) => {
      names.push(...(told.names ?? []));
      for (const own of told.names ?? []) own[2].forEach((name) => name && classes.add(name));
      if (performance.now() - drawn > 1000) {
        showList();
        drawn = performance.now();
      }
    });
    if (!found) return;
    names.sort((one, other) => one[0] - other[0]);
    worst = found.worst;
    fill(byId("only"), [["", "all"], ...[...classes].sort().map((name) => [name, name])], "");
    showList();
  } catch (error) {
    say(error.message);
  }
}

// What is clicked and pressed

byId("knobs").addEventListener("submit", (event) => event.preventDefault());
byId("image").addEventListener("change", () => pick(byId("image").value));
byId("example").addEventListener("change", () => {
  Object.assign(state, { example: Number(byId("example").value), hand: null });
  refresh();
});
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
for (const id of ["only", "order"]) {
  byId(id)?.addEventListener("change", () => {
    const all = listed();
    if (all.length) pick(all[0][0]);
    showList();
  });
}
for (const id of ["show-heat", "show-warm", "show-cold", "show-truth"]) byId(id).addEventListener("change", () => shown?.image && drawScene());
byId("reset").addEventListener("click", () => {
  state.hand = null;
  byId("stage").querySelector("canvas").focus(); // the button goes
  refresh();
});
function pin() {
  pinned = structuredClone(settled(state));
  remember();
  byId("whole").textContent = "";
  if (shown?.image) drawKept(byId("kept"), shown, "B: ", colourOfMask());
  showPinned();
  later();
}
byId("pin").addEventListener("click", pin);
byId("unpin").addEventListener("click", () => {
  pinned = null;
  byId("pin").focus(); // the button goes
  refresh();
});
byId("back").addEventListener("click", () => {
  state = { ...state, ...structuredClone(pinned), hand: null };
  refresh();
});
byId("live").addEventListener("change", later);
byId("all").addEventListener("click", () => measure("all", byId("whole")));
byId("along").addEventListener("change", () => {
  along = byId("along").value;
  remember();
  drawStrip();
  showSweep();
});
byId("save").addEventListener("click", async () => {
  try {
    const found = await ask("figure", { state });
    if (!found) return;
    make("a", { href: found.url, download: found.name }).click();
    byId("saved").textContent = `also in ${found.path}`;
  } catch (error) {
    byId("saved").textContent = error.message;
  }
});
byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => byId("file").files[0] && drop(byId("file").files[0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) drop(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const does = { j: () => step(1), k: () => step(-1), p: pin }[event.key];
  if (does) does();
});
addEventListener("hashchange", () => {
  recall();
  refresh();
});

recall();
showList();
refresh().then(listNames);
