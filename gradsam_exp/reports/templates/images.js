"use strict";
// One image of two runs at a time, and the gallery.

const TILES = 12;
const chosen = { a: null, b: null, image: 0, images: [], tiles: TILES };
const setOf = (run) => report.sets[run.set];

/** What is drawn of an image in the viewer: caption and layers of each panel. */
function panelsOf(at) {
  const { a, b } = chosen, { pictures } = setOf(a), size = pictures.sizes[at], image = chosen.image;
  const base = layers.picture(pictures.images[at]);
  const panels = [["image", [base]]];
  for (const [name, run] of a.source === b.source ? [["", a]] : [[" of A", a], [" of B", b]]) {
    const heats = pictures.heats[run.source];
    if (!heats) continue;
    panels.push([`heatmap${name}`, [layers.heat(heats[at], true)]]);
    panels.push([`overlay${name}`, [base, layers.heat(heats[at], false)]]);
  }
  for (const [name, run, colour] of a === b ? [["A", a, colourA]] : [["A", a, colourA], ["B", b, colourB]]) {
    const drawn = [base, layers.mask(pictures.truths[at], size, style("--truth"), true)];
    drawn.push(layers.mask(run.masks[at], size, colour), layers.prompts(run.prompts[at]));
    const predicted = setOf(run).predictable[run.predicted[image]];
    panels.push([`${name}: IoU ${fixed(run.iou[image])}, predicted IoU ${fixed(run.predicted_iou[image])}, seen as ${predicted}`, drawn]);
  }
  if (pictures.truths[at] !== null) panels.push(["ground truth", [layers.truth(pictures.truths[at], size)]]);
  return panels;
}

let turn = 0;
async function showImage() {
  const mine = ++turn; // a slower earlier call must not overwrite a later one
  const set = setOf(chosen.a);
  byId("image").value = chosen.image;
  for (const key of ["a", "b"]) remember(key, chosen[key].number);
  remember("class", byId("class").value);
  remember("image", set.ids[chosen.image]);
  const at = set.pictures.of.indexOf(chosen.image);
  byId("legend").hidden = at < 0;
  byId("of-b").hidden = byId("explore-b").hidden = chosen.a === chosen.b;
  for (const key of ["a", "b"]) {
    byId(`explore-${key}`).querySelector("code").textContent = `${chosen[key].explore} ${set.given[chosen.image]}`;
    byId(`explore-${key}`).querySelector("[role=status]").textContent = "";
  }
  let figures = [Object.assign(document.createElement("p"), { textContent: "The picture of this image is not in this page." })];
  if (at >= 0) {
    figures = await Promise.all(panelsOf(at).map(async ([caption, drawn]) => {
      const figure = document.createElement("figure");
      const text = Object.assign(document.createElement("figcaption"), { textContent: caption });
      figure.append(await canvasOf(set.pictures.sizes[at], 320, caption, drawn, MARGIN), text);
      return figure;
    }));
  }
  if (mine === turn) byId("panels").replaceChildren(...figures);
  drawScatter(chosen.images, chosen.a, chosen.b, set.ids, chosen.image, pick);
}

function pick(image) {
  chosen.image = image;
  showImage();
}

/** The class's images that have a picture, in the order that was asked for. */
function inOrder(order = byId("order").value) {
  const { a, b } = chosen;
  const worth = {
    worst: (k) => a.iou[k] ?? 0,
    best: (k) => -(a.iou[k] ?? 0),
    apart: (k) => -Math.abs(a.iou[k] - b.iou[k]),
  }[order];
  const pictured = new Set(setOf(a).pictures.of);
  return chosen.images.filter((k) => pictured.has(k)).sort((one, other) => worth(one) - worth(other));
}

let galleryTurn = 0;
async function drawGallery() {
  const mine = ++galleryTurn;
  const { a, b } = chosen, { pictures, ids, classes, of_class } = setOf(a), all = inOrder();
  const tiles = await Promise.all(all.slice(0, chosen.tiles).map(async (k) => {
    const at = pictures.of.indexOf(k), size = pictures.sizes[at];
    const drawn = [layers.picture(pictures.images[at]), layers.mask(pictures.truths[at], size, style("--truth"), true)];
    if (a !== b) drawn.push(layers.mask(b.masks[at], size, colourB));
    drawn.push(layers.mask(a.masks[at], size, colourA));
    const both = a === b ? `IoU ${fixed(a.iou[k])}` : `A ${fixed(a.iou[k])}, B ${fixed(b.iou[k])}`;
    const tile = Object.assign(document.createElement("button"), { type: "button", className: "tile" });
    const text = Object.assign(document.createElement("span"), { textContent: `${ids[k]} · ${classes[of_class[k]]} · ${both}` });
    tile.append(await canvasOf(size, 200, `${ids[k]} with masks`, drawn), text);
    tile.addEventListener("click", () => {
      pick(k);
      byId("viewer").scrollIntoView();
    });
    return tile;
  }));
  if (mine !== galleryTurn) return;
  byId("tiles").replaceChildren(...tiles);
  byId("more").hidden = chosen.tiles >= all.length;
}

function drawAll() {
  const { a, b, images } = chosen;
  const { ids, classes, of_class } = setOf(a);
  const texts = images.map((k) => [k, `${ids[k]} · ${classes[of_class[k]]} · A ${fixed(a.iou[k])}${a === b ? "" : ` · B ${fixed(b.iou[k])}`}`]);
  fill(byId("image"), texts, chosen.image);
  drawBoxes(images, a.set);
  drawCumulative(images, a, b);
  showImage();
  drawGallery();
}

/** The run whose mIoU is furthest from that of `run`, an upper bound only if there is no other. */
function mostDifferent(run, others) {
  const apart = (other) => Math.abs(difference(other.number, run.number)?.mean ?? 0) - (other.bound ? 2 : 0);
  return others.filter((other) => other !== run).sort((one, other) => apart(other) - apart(one))[0] ?? run;
}

/** Follow the choice of runs and class. */
function choose() {
  const before = chosen.a?.set;
  chosen.a = report.runs[Number(byId("run-a").value)];
  const { set } = chosen.a, { classes, of_class, notes, pictures } = report.sets[set];
  if (before !== set) {
    const others = finished.filter((run) => run.set === set);
    fill(byId("run-b"), others.map((run) => [run.number, run.label]), mostDifferent(chosen.a, others).number);
    fill(byId("class"), [["", "all"], ...classes.map((name, k) => [k, name])], "");
    const sizes = pictures.smaller ? ["pictures, masks and prompts are drawn smaller than they are"] : [];
    byId("missing").replaceChildren(...[...notes, ...sizes].map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  }
  if (before === undefined) {
    restore(byId("run-b"), "b");
    restore(byId("class"), "class");
  }
  chosen.b = report.runs[Number(byId("run-b").value)];
  const wanted = byId("class").value;
  chosen.images = of_class.map((_, k) => k).filter((k) => wanted === "" || of_class[k] === Number(wanted));
  chosen.tiles = TILES;
  if (before !== set) [chosen.image] = inOrder("apart").length ? inOrder("apart") : chosen.images;
  const asked = before === undefined ? report.sets[set].ids.indexOf(address.get("image")) : -1;
  if (asked >= 0) chosen.image = asked;
  if (!chosen.images.includes(chosen.image)) [chosen.image] = chosen.images;
  drawAll();
}

function step(by) {
  const at = chosen.images.indexOf(chosen.image) + by;
  pick(chosen.images[(at + chosen.images.length) % chosen.images.length]);
}

if (finished.length) {
  const first = report.runs[report.baseline];
  byId("run-a").value = first.number;
  restore(byId("run-a"), "a");
  restore(byId("order"), "order");
  for (const id of ["run-a", "run-b", "class"]) byId(id).addEventListener("change", choose);
  byId("image").addEventListener("change", () => pick(Number(byId("image").value)));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("order").addEventListener("change", () => {
    remember("order", byId("order").value);
    drawGallery();
  });
  addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, [tabindex]")) return;
    event.preventDefault();
    step(by);
  });
  document.addEventListener("runs", () => drawBoxes(chosen.images, chosen.a.set));
  byId("more").addEventListener("click", () => {
    const first = chosen.tiles;
    chosen.tiles += TILES;
    drawGallery().then(() => byId("tiles").children[first]?.focus()); // the button may be gone
  });
  choose();
}
