// Draws the images of a case side by side on canvases: grey levels, labels, angles, a scale bar.
import { make } from "./element.js";

const GAP = 10; // px between images
const NARROW = 124; // px: a caption needs them
const CAPTION = 44; // px of its height
const FILL = 90; // opacity of a label, of 255

let classes = []; // colours of the labels from 1 on
const palettes = {}; // the colour of each of 256 levels, as ImageData has it

const rgba = (red, green, blue, alpha = 255) => (
  ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0
);
const colourOf = (label) => classes[(label - 1) % classes.length];

// about: what stays the same in a session.
export const setColours = (about) => {
  classes = about.classes.map((x) => x.colour);
  const each = (colour) => Uint32Array.from({ length: 256 }, (_, level) => colour(level));
  const [cold, warm, hot] = about.heat;
  palettes.grey = each((level) => rgba(level, level, level));
  palettes.heat = each((level) => {
    const part = 2 * Math.min(1, level / about.brightest);
    const [low, high, t] = part < 1 ? [cold, warm, part] : [warm, hot, part - 1];
    return rgba(...[0, 1, 2].map((c) => low[c] + t * (high[c] - low[c])));
  });
  palettes.label = each((label) => {
    if (!label || !classes.length) return 0;
    return rgba(...[1, 3, 5].map((k) => parseInt(colourOf(label).slice(k, k + 2), 16)), FILL);
  });
};

// Draws `panes` of a scene: each has a title, the name of a plane, and perhaps `over`, one that
// covers it from the wipe on.  view: labels (0 off, 1 outline, 2 filled), wipe, zoom, x and y (the
// point in the middle, in parts of the image).  Returns where the images are.
export const draw = (stage, scene, panes, view) => {
  while (stage.children.length > panes.length) stage.lastChild.remove();
  while (stage.children.length < panes.length) {
    const figure = make("figure");
    const caption = make("figcaption");
    caption.append(make("b"), make("span", "image left"), make("span", "image right"));
    figure.append(make("canvas"), caption);
    stage.append(figure);
  }
  const place = fit(stage, scene, panes.length, view);
  panes.forEach((pane, k) => drawPane(stage.children[k], scene, pane, view, place));
  return place;
};

// In css px: the size of a pane, of an image px, and the corner of the image in the pane.
const fit = (stage, scene, count, view) => {
  const style = getComputedStyle(stage);
  const inner = (stage.clientWidth - 2 * parseFloat(style.paddingLeft) - GAP * (count - 1)) / count;
  const tall = stage.clientHeight - parseFloat(style.paddingTop) - CAPTION;
  const stretch = scene.mm ? scene.mm[0] / scene.mm[1] : 1; // px that are not square
  const [w, h] = [scene.width, scene.height * stretch];
  const scale = Math.min(inner / w, tall / h) * view.zoom;
  const width = Math.min(inner, Math.max(NARROW, w * scale));
  const height = Math.min(tall, h * scale);
  const inside = (x, half) => (half < 0.5 ? Math.min(Math.max(x, half), 1 - half) : 0.5);
  const x = inside(view.x, width / (2 * w * scale));
  const y = inside(view.y, height / (2 * h * scale));
  const [left, top] = [width / 2 - x * w * scale, height / 2 - y * h * scale];
  return { scale, stretch, width, height, left, top, x, y };
};

const drawPane = (figure, scene, pane, view, place) => {
  const canvas = figure.firstChild;
  const dots = window.devicePixelRatio || 1;
  const { scale, stretch, width, height, left, top } = place;
  figure.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  [canvas.width, canvas.height] = [Math.round(width * dots), Math.round(height * dots)];
  figure.querySelector("b").textContent = pane.title;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale * dots, 0, 0, scale * stretch * dots, left * dots, top * dots);
  pen.imageSmoothingQuality = "high"; // as viewers of radiology magnify
  const drawPlane = (name) => { // the label map is that of the enhanced image, and on no other
    pen.drawImage(paint(scene, name, name === "spread" ? "heat" : "grey"), 0, 0);
    if (view.labels && name === "enhanced") drawLabels(pen, scene, view.labels === 2, scale);
  };
  drawPlane(pane.name);
  if (pane.over) {
    pen.save();
    pen.beginPath();
    pen.rect((view.wipe * width - left) / scale, 0, scene.width, scene.height);
    pen.clip();
    drawPlane(pane.over);
    pen.restore();
  }
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  if (pane.over) drawLine(pen, [view.wipe * width, 0, view.wipe * width, height], 1);
  drawScaleBar(pen, scene, place);
};

// What is drawn of a scene once, and kept.
const once = (scene, name, create) => {
  scene.drawn[name] ??= create();
  return scene.drawn[name];
};
const paint = (scene, name, palette) => once(scene, `${name} ${palette}`, () => {
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [scene.width, scene.height];
  const image = new ImageData(scene.width, scene.height);
  const out = new Uint32Array(image.data.buffer);
  scene.px[name].forEach((level, k) => { out[k] = palettes[palette][level]; });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
});

// The edges between labels, sharp at any zoom: a path for each label.
const outline = (scene) => once(scene, "outline", () => {
  const { width, height, px: { label } } = scene;
  const paths = new Map();
  const add = (one, other, x1, y1, x2, y2) => {
    [one, other].filter((x) => x && one !== other).forEach((x) => {
      if (!paths.has(x)) paths.set(x, new Path2D());
      paths.get(x).moveTo(x1, y1);
      paths.get(x).lineTo(x2, y2);
    });
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = label[y * width + x];
      if (x + 1 < width) add(here, label[y * width + x + 1], x + 1, y, x + 1, y + 1);
      if (y + 1 < height) add(here, label[(y + 1) * width + x], x, y + 1, x + 1, y + 1);
    }
  }
  return paths;
});

const drawLabels = (pen, scene, filled, scale) => {
  if (!classes.length) return;
  if (filled) {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(paint(scene, "label", "label"), 0, 0);
  }
  pen.lineCap = "square";
  pen.lineWidth = 1.3 / scale;
  outline(scene).forEach((path, label) => {
    pen.strokeStyle = colourOf(label);
    pen.stroke(path);
  });
  (scene.angles || []).forEach((angle) => drawAngle(pen, scene, angle, scale));
};

// The two lines of a curve angle, and its degrees on the side where there is more room.
const drawAngle = (pen, scene, { degrees, lines }, scale) => {
  lines.forEach((x) => drawLine(pen, [x.x1, x.y1, x.x2, x.y2], 1.6 / scale));
  const y = lines.reduce((sum, x) => sum + x.y1 + x.y2, 0) / 4;
  const [first, last] = [Math.max(...lines.map((x) => x.x1)), Math.max(...lines.map((x) => x.x2))];
  const right = first <= scene.width - last; // as the report does
  pen.textAlign = right ? "right" : "left";
  write(pen, `${degrees.toFixed(1)}°`, (right ? 0.98 : 0.02) * scene.width, y, 13 / scale);
  pen.textAlign = "left";
};

// White on black, so that it shows on any image.
const drawLine = (pen, [x1, y1, x2, y2], wide) => {
  [["#000", 2.5 * wide], ["#fff", wide]].forEach(([colour, width]) => {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
    pen.stroke();
  });
};
const write = (pen, text, x, y, size) => {
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.lineJoin = "round";
  pen.lineWidth = size / 4;
  pen.strokeStyle = "#000";
  pen.fillStyle = "#fff";
  pen.strokeText(text, x, y);
  pen.fillText(text, x, y);
};

// A round number of mm, or of px where the spacing is unknown.
const drawScaleBar = (pen, scene, place) => {
  const [unit, step] = scene.mm ? ["mm", scene.mm[1]] : ["px", 1];
  const room = 0.45 * place.width * step / place.scale;
  const power = 10 ** Math.floor(Math.log10(room));
  const length = Math.max(...[1, 2, 5].map((x) => x * power).filter((x) => x <= room));
  const y = place.height - 10;
  drawLine(pen, [8, y, 8 + length * place.scale / step, y], 2.5);
  write(pen, `${Number(length.toPrecision(2))} ${unit}`, 8, y - 7, 12);
};
