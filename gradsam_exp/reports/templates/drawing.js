"use strict";
// Pictures, masks and prompts drawn on canvases; needs `report.heat`, the colours from cold to warm.

const MARGIN = 8; // px: a prompt in the corner of an image is drawn whole
const heatColours = report.heat.map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));

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
