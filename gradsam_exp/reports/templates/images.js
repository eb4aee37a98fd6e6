"use strict";
// One image of two runs at a time, and the gallery: drawn on canvases from pictures, masks and prompts.

const TILES = 12;
const MARGIN = 8; // px: a prompt in the corner of an image is drawn whole
const chosen = { a: null, b: null, image: 0, images: [], tiles: TILES };
const heatColours = report.heat.map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
const setOf = (run) => report.sets[run.set];

/** COCO's run lengths (down the columns, first run empty) to one byte per pixel, along the rows. */
function decodeMask(text, width, height) {
  const mask = new Uint8Array(width * height);
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 0, part;
    do {
      part = text.charCodeAt(at++) - 48;
      value |= (part & 31) << shift;
      shift += 5;
    } while (part & 32);
    if (part & 16) value |= -1 << shift;
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  let pixel = 0;
  counts.forEach((count, k) => {
    for (const end = pixel + count; pixel < end; pixel++) {
      if (k % 2) mask[(pixel % height) * width + Math.floor(pixel / height)] = 1;
    }
  });
  return mask;
}

/** The border of a mask along pixel edges, `zoom` px for each of its pixels. */
function border(mask, width, height, zoom) {
  const path = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] === 1;
  const edge = (x0, y0, x1, y1) => { path.moveTo(x0 * zoom, y0 * zoom); path.lineTo(x1 * zoom, y1 * zoom); };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (at(x, y) !== at(x - 1, y)) edge(x, y, x, y + 1);
      if (at(x, y) !== at(x, y - 1)) edge(x, y, x + 1, y);
    }
  }
  return path;
}

function strokeMask(pen, text, [width, height], zoom, colour, dashed) {
  const path = border(decodeMask(text, width, height), width, height, zoom);
  for (const [look, wide] of [["#000", 5], [colour, 3]]) {
    const white = dashed && look !== "#000";
    pen.lineCap = white ? "butt" : "square";
    pen.setLineDash(white ? [zoom / 2, zoom / 2] : []); // each pixel's edge begins a new dash
    pen.strokeStyle = look;
    pen.lineWidth = wide;
    pen.stroke(path);
  }
  pen.setLineDash([]);
}

/** Foreground points as filled circles, background points as crosses, boxes as rectangles. */
function drawPrompts(pen, [xy, labels, boxes], zoom) {
  const place = (value) => (value + 0.5) * zoom; // coordinates name pixel centres
  pen.lineWidth = 2;
  pen.strokeStyle = style("--fg-point");
  for (let k = 0; k < boxes.length; k += 4) {
    pen.strokeRect(place(boxes[k]), place(boxes[k + 1]), (boxes[k + 2] - boxes[k]) * zoom, (boxes[k + 3] - boxes[k + 1]) * zoom);
  }
  [...labels].forEach((label, k) => {
    const [x, y] = [place(xy[2 * k]), place(xy[2 * k + 1])];
    const size = label === "1" ? 4 : 5;
    pen.beginPath();
    if (label === "1") {
      pen.arc(x, y, size, 0, 2 * Math.PI);
      pen.fillStyle = style("--fg-point");
      pen.fill();
      pen.lineWidth = 1;
      pen.strokeStyle = "#000";
      pen.stroke();
    } else {
      pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size);
      pen.moveTo(x - size, y + size); pen.lineTo(x + size, y - size);
      for (const [look, wide] of [["#fff", 5], [style("--bg-point"), 3]]) {
        pen.strokeStyle = look;
        pen.lineWidth = wide;
        pen.stroke();
      }
    }
  });
}

const decoded = new Map();
/** A picture's pixels, once it is decoded. */
function pixelsOf(url) {
  if (!decoded.has(url)) {
    decoded.set(url, new Promise((done) => {
      const picture = new Image();
      picture.onload = () => done(picture);
      picture.src = url;
    }));
  }
  return decoded.get(url);
}

/** A grey heatmap in colours; what is cold lets more shine through. */
function coloured(picture, opaque) {
  const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < pixels.data.length; k += 4) {
    const heat = pixels.data[k];
    pixels.data.set(heatColours[heat], k);
    if (!opaque) pixels.data[k + 3] = 50 + 0.5 * heat;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

/** A canvas of about `wide` px, and `margin` px around, with what `layers` draw on it, one after the other. */
async function canvasOf(size, wide, text, layers, margin = 0) {
  const zoom = Math.max(1, Math.round(wide / size[0]));
  const [width, height] = size.map((length) => length * zoom);
  const canvas = Object.assign(document.createElement("canvas"), { width: width + 2 * margin, height: height + 2 * margin });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", text);
  const pen = canvas.getContext("2d");
  pen.translate(margin, margin);
  pen.imageSmoothingEnabled = false;
  for (const layer of layers) await layer(pen, zoom, { width, height });
  return canvas;
}

const layers = {
  picture: (url) => async (pen, _, { width, height }) => pen.drawImage(await pixelsOf(url), 0, 0, width, height),
  heat: (url, opaque) => async (pen, _, { width, height }) => pen.drawImage(coloured(await pixelsOf(url), opaque), 0, 0, width, height),
  mask: (text, size, colour, dashed) => (pen, zoom) => text !== null && strokeMask(pen, text, size, zoom, colour, dashed),
  prompts: (prompts) => (pen, zoom) => drawPrompts(pen, prompts, zoom),
  truth: (text, [width, height]) => (pen, zoom) => {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width * zoom, height * zoom);
    pen.fillStyle = "#fff";
    decodeMask(text, width, height).forEach((set, k) => set && pen.fillRect((k % width) * zoom, Math.floor(k / width) * zoom, zoom, zoom));
  },
};

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
  byId("of-b").hidden = chosen.a === chosen.b;
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
