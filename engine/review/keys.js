// What keys and buttons do.
import { setBlind } from "./cases.js";
import { askCase, askNote, askReason, openDialog } from "./dialogs.js";
import { $ } from "./element.js";
import { addAngles, drawAll, filter, go, panes, show, step } from "./screen.js";
import { act, now, say, view } from "./state.js";
import { accept, prefer, takeBack } from "./votes.js";

const MOST = 16; // zoom
const LABELS = ["off", "outline", "filled"];

const setMode = (mode) => {
  view.mode = mode;
  view.depths = false;
  drawAll();
  say(mode === "pair" ? "side by side" : "wipe");
};
const blink = () => {
  view.which = view.mode === "one" && !view.depths ? 1 - view.which : 0;
  view.mode = "one";
  view.depths = false;
  drawAll();
  if (now.scene) say(panes()[0].title);
};
const toggle = (name) => {
  if (now.blind) return;
  view[name] = !view[name];
  drawAll();
};
export const zoom = (by, x = view.x, y = view.y) => {
  const next = by ? Math.min(MOST, Math.max(1, view.zoom * by)) : 1;
  view.x = x + (view.x - x) * view.zoom / next;
  view.y = y + (view.y - y) * view.zoom / next;
  view.zoom = next;
  drawAll();
};
export const move = (x, y) => {
  view.x += x;
  view.y += y;
  drawAll();
};
export const wipe = (to) => {
  view.wipe = Math.min(1, Math.max(0, to));
  drawAll();
};
const actions = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  ArrowUp: () => move(0, -0.1 / view.zoom),
  ArrowDown: () => move(0, 0.1 / view.zoom),
  Home: () => go(0),
  End: () => go(now.shown.length - 1),
  " ": blink,
  c: () => setMode("pair"),
  w: () => setMode(view.mode === "wipe" && !view.depths ? "pair" : "wipe"),
  d: () => toggle("depths"),
  l: () => {
    if (now.blind) return;
    view.labels = (view.labels + 1) % LABELS.length;
    drawAll();
    say(`labels: ${LABELS[view.labels]}`);
    if (view.labels) addAngles();
  },
  s: () => { if (now.about.draws > 1) toggle("spread"); },
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  0: () => zoom(0),
  a: accept,
  r: askReason,
  n: askNote,
  u: takeBack,
  1: () => prefer("left"),
  2: () => prefer("equal"),
  3: () => prefer("right"),
  b: async () => {
    if (now.about.locked || now.about.missing) return;
    await setBlind(!now.blind);
    show(now.blind ? "Blind. " : "Not blind. ");
  },
  f: () => {
    const options = [...$("filter").options].filter((x) => !x.disabled);
    const next = options[(options.indexOf($("filter").selectedOptions[0]) + 1) % options.length];
    $("filter").value = next.value;
    filter();
  },
  g: askCase,
  "?": () => openDialog("help"),
};

const onKey = (event) => {
  const target = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const typing = target.matches("select, input:not([type=checkbox])");
  const own = target.matches("button, input") && [" ", "Enter"].includes(event.key);
  if (typing || own || (event.key.length === 1 && !$("letters").checked)) return;
  if (target === $("list") && ["ArrowUp", "ArrowDown"].includes(event.key)) {
    event.preventDefault();
    step(event.key === "ArrowUp" ? -1 : 1);
    return;
  }
  const side = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
  if (event.shiftKey && side && view.mode === "wipe") {
    event.preventDefault();
    wipe(view.wipe + side);
    return;
  }
  if (event.key.startsWith("Arrow") && ["ArrowUp", "ArrowDown"].includes(event.key) && view.zoom === 1) return;
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  act(action);
};
document.addEventListener("keydown", onKey);
document.querySelectorAll("button[data-key]").forEach((button) => {
  button.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays
  button.addEventListener("click", () => act(actions[button.dataset.key]));
});
$("reject").addEventListener("keydown", (event) => {
  const radio = $("reasons").querySelectorAll("input")[Number(event.key) - 1];
  if (event.target.type === "radio" && radio) {
    radio.click();
    radio.focus();
  }
  if (event.target.type === "radio" && event.key === "Enter") {
    event.preventDefault();
    $("reject").querySelector("[type=submit]").click();
  }
});
$("filter").addEventListener("change", () => act(filter));
$("wiper").addEventListener("input", (event) => wipe(event.target.value / 100));
let mouse = false; // used last: then keys go to the images again, not to what was clicked
document.addEventListener("pointerdown", () => { mouse = true; }, true);
document.addEventListener("keydown", () => { mouse = false; }, true);
["filter", "wiper", "advance"].forEach((x) => $(x).addEventListener("change", () => {
  if (mouse) $("stage").focus();
}));
