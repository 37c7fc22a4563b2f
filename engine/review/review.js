// The page of a review: shows one case after the other, and sends verdicts to be stored.
// All that comes from the server is put into the page as text, never as HTML.
import { draw, setColours } from "./images.js";
import { ENDED, ask, askJson, unpack } from "./server.js";
import { $, make } from "./element.js";
import { showCase, tellVerdict } from "./case.js";
import { ACCEPTED, List, OPEN, RATED, REJECTED, VOID, title } from "./list.js";

const KEPT = 8; // cases in memory
const POLL = 10000; // ms between two looks for new results
const MOST = 16; // zoom
const LABELS = ["off", "outline", "filled"];
const FILTERS = {
  all: () => true,
  flagged: (x) => x.flagged,
  open: (x) => x.state === OPEN || x.state === VOID,
  rejected: (x) => x.state === REJECTED,
};

const list = new List((index) => act(() => go(index)));
let about = {};
let rows = []; // all cases, in the order of the server
let shown = []; // those that pass the filter
let at = 0; // in shown
let version = "";
let blind = false;
let scene = null; // of the case that is drawn; null while it is loaded
let place = null; // where the images are that were drawn last
let changes = 0; // of the mode and of verdicts
let ticket = 0; // of the latest picture that was asked for; an earlier one is not drawn any more
let since = 0; // ms: when the key was pressed that is being obeyed
const undo = [];
const scenes = new Map(); // promises, by mode and case
const view = {
  mode: "pair", which: 1, labels: 0, spread: false, depths: false, wipe: 0.5, zoom: 1, x: 0.5, y: 0.5,
};

// --- the server

const alarm = (text) => {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
};
const say = (text) => { $("said").textContent = text; }; // to those who listen
const notice = (text) => { $("notice").textContent = text; }; // to all, until the next case

const refresh = async () => {
  const asked = changes;
  const found = await askJson(`cases?blind=${+blind}&known=${version}`);
  if (found.version === null || asked !== changes) return false; // it may be out of date already
  scenes.clear(); // an image or a verdict may be another
  version = found.version;
  rows = found.cases.map((number, k) => ({
    case: number,
    id: found.ids && found.ids[k],
    flagged: found.flagged[k] === "1",
    state: Number(found.states[k]),
  }));
  about.left = found;
  return true;
};

const load = (number) => {
  const key = `${+blind}/${number}`;
  if (!scenes.has(key)) {
    const found = ask(`case/${number}?blind=${+blind}`).then((x) => x.arrayBuffer()).then(unpack);
    found.catch(() => scenes.delete(key));
    scenes.set(key, found);
    if (scenes.size > KEPT) scenes.delete(scenes.keys().next().value);
  }
  return scenes.get(key);
};

// --- images

const before = () => (scene.optimal === null ? "" : `depth ${scene.optimal}`);
const panes = () => { // what is drawn side by side: title, image, and one that the wipe uncovers
  if (blind) {
    const [left, right] = [{ title: "Left", name: "left" }, { title: "Right", name: "right" }];
    if (view.mode === "wipe") return [{ title: "Left | Right", name: "left", over: "right" }];
    return view.mode === "pair" ? [left, right] : [view.which ? right : left];
  }
  const enhanced = { title: "Enhanced", name: "enhanced" };
  const old = before() && {
    title: scene.depths > 1 ? `Before (depth ${scene.optimal + 1})` : "Before",
    name: before(),
  };
  let found;
  if (view.depths && old) {
    found = scene.planes.filter((x) => x.startsWith("depth ")).map((name) => {
      const word = name === before() ? "Before:" : "Depth";
      return { title: `${word} ${Number(name.slice(6)) + 1}`, name };
    });
    found.push(enhanced);
  } else if (!old) found = [enhanced];
  else if (view.mode === "wipe") found = [{ title: "Before | Enhanced", name: old.name, over: "enhanced" }];
  else found = view.mode === "pair" ? [old, enhanced] : [view.which ? enhanced : old];
  if (view.spread && scene.px.spread) {
    found.push({ title: `Spread, ${about.draws} draws`, name: "spread" });
  }
  return found;
};

const drawAll = () => {
  if (!scene) return;
  const wanted = panes();
  const stage = $("stage");
  place = draw(stage, scene, wanted, blind ? { ...view, labels: 0 } : view);
  [view.x, view.y] = [place.x, place.y];
  stage.setAttribute("aria-label", `case ${scene.case}: ${wanted.map((x) => x.title).join(", ")}`);
  stage.classList.toggle("zoomed", view.zoom > 1);
  stage.classList.toggle("many", wanted.length > 3);
  showTools();
};

// --- one case

const current = () => shown[at];
const nameOf = (row) => `Case ${title(row)}`;

const show = async (spoken = "") => {
  const row = current();
  const began = since;
  const mine = (ticket += 1);
  scene = null;
  delete $("stage").dataset.case;
  notice("");
  showHeader();
  list.show(shown, at);
  if (!row) return showNothing();
  try {
    const found = await load(row.case);
    if (mine !== ticket) return undefined; // the reader has gone on
    scene = found;
  } catch (error) {
    if (mine === ticket) showNothing(error.message);
    if (error.message === ENDED) alarm(ENDED);
    return undefined;
  }
  drawAll();
  showCase(scene, blind);
  const flagged = scene.flags && scene.flags.length ? ` Flagged: ${scene.flags.map((x) => x.why).join("; ")}.` : "";
  say(`${spoken}${nameOf(row)}, ${at + 1} of ${shown.length}.${flagged} ${tellVerdict(scene.verdict)}`);
  requestAnimationFrame(() => setTimeout(() => {
    if (mine !== ticket) return;
    $("stage").dataset.ms = (performance.now() - began).toFixed(1);
    $("stage").dataset.case = row.case;
    [at + 1, at - 1].filter((k) => shown[k]).forEach((k) => load(shown[k].case).catch(() => {}));
  }));
  if (view.labels) await addAngles();
  return undefined;
};

const addAngles = async () => {
  const mine = scene;
  if (!mine || blind || mine.angles) return;
  try {
    mine.angles = (await askJson(`marks/${mine.case}`)).angles;
  } catch {
    mine.angles = []; // the labels are there without them
  }
  if (mine === scene) drawAll();
};

const showNothing = (words) => {
  const filter = $("filter").selectedOptions[0].textContent;
  const text = words || (rows.length ? `No case is here: ${filter}.` : "No case is done yet.");
  $("stage").replaceChildren(make("p", text, "empty"));
  ["why", "figures"].forEach((x) => $(x).replaceChildren());
  $("verdict").textContent = "";
  say(text);
  showTools();
};

const showHeader = () => {
  const row = current();
  $("position").textContent = row ? `${at + 1} of ${shown.length}` : `0 of ${shown.length}`;
  $("name").textContent = row ? `${nameOf(row)}${row.flagged ? " ⚑ flagged" : ""}` : "";
  const number = (state) => rows.filter((x) => x.state === state).length;
  const parts = blind
    ? [`${number(RATED)} of ${rows.length} answered`]
    : [`${number(ACCEPTED)} accepted`, `${number(REJECTED)} rejected`, `${number(OPEN) + number(VOID)} to review`];
  if (about.left.failed) parts.push(`${about.left.failed} failed, not shown`);
  if (about.left.running) parts.push("the run goes on");
  if (about.reviewer) parts.push(about.reviewer);
  $("progress").textContent = parts.join(" · ");
  document.title = `${$("position").textContent} · Review`;
  document.body.classList.toggle("blind", blind);
};

const pressed = (key, on) => document.querySelector(`button[data-key="${key}"]`).setAttribute("aria-pressed", String(on));
const showTools = () => {
  const able = Boolean(scene) && (blind || before());
  pressed("c", view.mode === "pair" && !view.depths);
  pressed("w", view.mode === "wipe" && !view.depths);
  pressed("d", view.depths && !blind);
  pressed("l", view.labels > 0 && !blind);
  pressed("s", view.spread && !blind);
  pressed("b", blind);
  const off = {
    " ": !able, c: !able, w: !able, d: blind || !able || !(scene.depths > 1), l: blind,
    s: blind || !(about.draws > 1), b: about.locked || Boolean(about.missing),
  };
  Object.entries(off).forEach(([key, x]) => {
    document.querySelector(`button[data-key="${key}"]`).disabled = x;
  });
  $("wiper").disabled = !able || view.mode !== "wipe" || view.depths;
  $("wiper").value = 100 * view.wipe;
  $("legend").hidden = !view.labels || blind;
  $("open-votes").hidden = blind;
  $("blind-votes").hidden = !blind;
};

// --- the list

const choose = (number) => { // applies the filter, and keeps a case that is looked at
  const fits = FILTERS[$("filter").value];
  shown = rows.filter((x) => fits(x) || x.case === number);
  at = Math.max(0, shown.findIndex((x) => x.case === number));
};
const go = (index, spoken) => { // does not wait for the picture, so that one can leaf quickly
  const target = shown[Math.min(Math.max(index, 0), shown.length - 1)];
  choose(target && target.case);
  show(spoken);
};
const step = (by) => {
  if (shown[at + by]) go(at + by);
  else notice(by > 0 ? "This is the last case." : "This is the first case.");
};
const filter = () => {
  const fits = FILTERS[$("filter").value];
  const row = current();
  choose(row && fits(row) ? row.case : undefined);
  show(`${$("filter").selectedOptions[0].textContent}: `);
};

// --- verdicts

const vote = async (ballot, stays = false) => {
  const row = current();
  const mine = scene;
  if (!mine || !row || $("stage").dataset.case !== String(row.case)) {
    return notice("Wait for the picture.");
  }
  const old = mine.verdict && !mine.verdict.void ? mine.verdict : null;
  const told = await send({ case: row.case, pixels: mine.pixels, ...ballot });
  if (!told) return undefined;
  undo.push({ case: row.case, pixels: mine.pixels, blind, at: told.at, old });
  const words = `${nameOf(row)}: ${$("verdict").textContent}. `;
  if (shown[at + 1] && !stays && $("advance").checked) return go(at + 1, words);
  return notice(shown[at + 1] || stays ? words : `${words}This is the last case.`);
};
const send = async (ballot) => {
  try {
    const told = await askJson("verdict", ballot);
    changes += 1;
    alarm("");
    const row = rows.find((x) => x.case === ballot.case);
    if (row) {
      row.state = ballot.preferred
        ? (ballot.preferred === "none" ? OPEN : RATED)
        : { accept: ACCEPTED, reject: REJECTED, none: OPEN }[ballot.verdict];
    }
    showHeader();
    list.draw(shown, at);
    if (scene && scene.case === ballot.case) {
      scene.verdict = told;
      showCase(scene, blind);
    }
    return told;
  } catch (error) {
    alarm(`Not stored: ${error.message}`);
    if (error.code === 409) {
      scenes.clear();
      version = "";
      await update();
    }
    return null;
  }
};
const takeBack = async () => {
  const last = undo.pop();
  if (!last) return notice("There is nothing to undo.");
  if (last.blind !== blind) await setBlind(last.blind);
  const old = last.old || {};
  const ballot = { case: last.case, pixels: last.pixels, note: old.note || "", instead_of: last.at };
  if (blind) ballot.preferred = old.preferred || "none";
  else Object.assign(ballot, { verdict: old.verdict || "none", reason: old.reason || "" });
  const told = await send(ballot);
  scenes.delete(`${+blind}/${last.case}`);
  choose(last.case);
  await show();
  return notice(told ? "Undone." : "");
};
const isOpen = () => !blind && scene;
const accept = () => (isOpen() ? vote({ verdict: "accept", note: noteOf() }) : waitFor());
const waitFor = () => { if (!scene) notice("Wait for the picture."); };
const noteOf = () => (scene.verdict && !scene.verdict.void ? scene.verdict.note : "");
const prefer = (side) => (blind && scene ? vote({ preferred: side, note: noteOf() }) : waitFor());

// --- dialogs: a form that is submitted calls `done`, which returns what is wrong

const openDialog = (name, done) => {
  const dialog = $(name);
  const form = dialog.querySelector("form");
  if (form) {
    form.onsubmit = (event) => {
      const wrong = done();
      if (!wrong) return;
      event.preventDefault();
      $(`${name}-wrong`).textContent = wrong;
    };
  }
  const wrong = $(`${name}-wrong`);
  if (wrong) wrong.textContent = "";
  dialog.showModal();
};
document.querySelectorAll("dialog").forEach((dialog) => {
  dialog.querySelector(".closer").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => $("stage").focus());
});

const askReason = () => {
  if (!isOpen()) return;
  const { pixels } = scene; // that the reader looks at now
  const radios = [...$("reasons").querySelectorAll("input")];
  const told = scene.verdict && scene.verdict.verdict === "reject" ? scene.verdict.reason : "";
  radios.forEach((x) => { x.checked = x.value === told; });
  $("reject-note").value = noteOf();
  openDialog("reject", () => {
    const chosen = radios.find((x) => x.checked);
    const note = $("reject-note").value.trim();
    if (!chosen && !note) return "Choose a reason with its number, or write one.";
    if (chosen && chosen.value === "other" && !note) return "Say in your own words why.";
    act(() => vote({ pixels, verdict: "reject", reason: chosen ? chosen.value : "other", note }));
    return "";
  });
  (radios.find((x) => x.checked) || radios[0]).focus();
};
const askNote = () => {
  if (!scene || !scene.planes) return;
  const { pixels } = scene;
  $("note-text").value = noteOf();
  openDialog("note", () => {
    const old = scene.verdict && !scene.verdict.void ? scene.verdict : {};
    const note = $("note-text").value.trim();
    act(() => vote(blind
      ? { pixels, preferred: old.preferred || "none", note }
      : { pixels, verdict: old.verdict || "none", reason: old.reason || "", note }, true));
    return "";
  });
  $("note-text").select();
};
const askCase = () => {
  $("goto-label").textContent = about.ids ? "Number or id" : "Number of the case";
  openDialog("goto", () => {
    const text = $("goto-text").value.trim();
    const found = rows.find((x) => String(x.case) === text) || rows.find((x) => x.id && x.id === text);
    if (!found) return `There is no case ${text} here.`;
    act(() => {
      choose(found.case);
      show();
    });
    return "";
  });
  $("goto-text").select();
};

// --- what keys and buttons do

const setBlind = async (on) => {
  const row = current();
  blind = on;
  changes += 1;
  ticket += 1;
  scene = null;
  version = "";
  [...$("filter").options].forEach((x) => { x.disabled = blind && ["flagged", "rejected"].includes(x.value); });
  if ($("filter").selectedOptions[0].disabled) $("filter").value = "all";
  await refresh();
  choose(row && row.case);
};
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
  if (scene) say(panes()[0].title);
};
const toggle = (name) => {
  if (blind) return;
  view[name] = !view[name];
  drawAll();
};
const zoom = (by, x = view.x, y = view.y) => {
  const next = by ? Math.min(MOST, Math.max(1, view.zoom * by)) : 1;
  view.x = x + (view.x - x) * view.zoom / next;
  view.y = y + (view.y - y) * view.zoom / next;
  view.zoom = next;
  drawAll();
};
const move = (x, y) => {
  view.x += x;
  view.y += y;
  drawAll();
};
const wipe = (to) => {
  view.wipe = Math.min(1, Math.max(0, to));
  drawAll();
};
const actions = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  ArrowUp: () => move(0, -0.1 / view.zoom),
  ArrowDown: () => move(0, 0.1 / view.zoom),
  Home: () => go(0),
  End: () => go(shown.length - 1),
  " ": blink,
  c: () => setMode("pair"),
  w: () => setMode(view.mode === "wipe" && !view.depths ? "pair" : "wipe"),
  d: () => toggle("depths"),
  l: () => {
    if (blind) return;
    view.labels = (view.labels + 1) % LABELS.length;
    drawAll();
    say(`labels: ${LABELS[view.labels]}`);
    if (view.labels) addAngles();
  },
  s: () => { if (about.draws > 1) toggle("spread"); },
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
    if (about.locked || about.missing) return;
    await setBlind(!blind);
    show(blind ? "Blind. " : "Not blind. ");
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

// One after the other: a key that comes while a verdict is stored waits for that.
let queue = Promise.resolve();
const act = (action) => {
  const pressedAt = performance.now();
  queue = queue.then(() => {
    since = pressedAt;
    return action();
  }).catch((error) => alarm(error.message));
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

// --- the mouse on the images

const within = (event) => { // where it points, in parts of the image and of the pane
  const box = (event.target.closest("canvas") || $("stage").querySelector("canvas")).getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  return {
    x: (x - place.left) / (scene.width * place.scale),
    y: (y - place.top) / (scene.height * place.stretch * place.scale),
    part: x / box.width,
  };
};
let drag = null;
$("stage").addEventListener("pointerdown", (event) => {
  if (!scene || !event.target.matches("canvas")) return;
  drag = { x: event.clientX, y: event.clientY, wipes: view.mode === "wipe" && !view.depths };
  $("stage").setPointerCapture(event.pointerId);
  if (drag.wipes) wipe(within(event).part);
});
$("stage").addEventListener("pointermove", (event) => {
  if (!drag || !scene) return;
  if (drag.wipes) {
    const box = $("stage").querySelector("canvas").getBoundingClientRect();
    wipe((event.clientX - box.left) / box.width);
    return;
  }
  const scale = { x: scene.width * place.scale, y: scene.height * place.stretch * place.scale };
  move((drag.x - event.clientX) / scale.x, (drag.y - event.clientY) / scale.y);
  Object.assign(drag, { x: event.clientX, y: event.clientY });
});
["pointerup", "pointercancel"].forEach((x) => $("stage").addEventListener(x, () => { drag = null; }));
$("stage").addEventListener("wheel", (event) => {
  if (!scene || !event.target.matches("canvas")) return;
  event.preventDefault();
  const { x, y } = within(event);
  zoom(event.deltaY < 0 ? 1.25 : 0.8, x, y);
}, { passive: false });
$("stage").addEventListener("dblclick", () => zoom(0));
new ResizeObserver(() => {
  drawAll();
  list.draw(shown, at);
}).observe($("stage"));

// --- the beginning

const update = async () => { // looks for new results and for verdicts of others
  try {
    if (await refresh()) await redraw();
    if ($("alarm").textContent === ENDED) alarm("");
  } catch (error) {
    if (error.message === ENDED) alarm(ENDED);
  }
};
const redraw = async () => { // the same case, of which something may have changed
  const row = current(); // where the reader is by now
  choose(row && row.case);
  showHeader();
  list.draw(shown, at);
  if (!row) return show();
  const mine = ticket;
  const fresh = await load(row.case);
  if (mine !== ticket || !scene) return undefined; // the reader has gone on
  if (fresh.pixels === scene.pixels) fresh.angles = scene.angles;
  else notice("The image has just changed: look again.");
  scene = fresh;
  drawAll();
  return showCase(scene, blind);
};
const begin = async () => {
  about = await askJson("session");
  setColours(about);
  blind = about.locked;
  about.reasons.forEach((reason, k) => {
    const label = make("label");
    const radio = Object.assign(make("input"), { type: "radio", name: "reason", value: reason });
    label.append(radio, make("kbd", k + 1), ` ${reason}`);
    $("reasons").append(label);
  });
  about.classes.forEach((x) => {
    const item = make("span");
    const key = make("i", "", "key");
    key.style.background = x.colour;
    item.append(key, ` ${x.name}`);
    $("legend").append(item);
  });
  $("legend").append(make("span", "White lines: the two levels that a curve angle is between"));
  $("missing").textContent = about.missing;
  $("sides").textContent = about.sides;
  $("caution").textContent = about.caution;
  if (blind) await setBlind(true);
  else await refresh();
  const next = rows.find(FILTERS.open); // where an earlier review stopped
  choose(next && next.case);
  $("stage").focus();
  await show();
  setInterval(update, POLL);
  document.addEventListener("visibilitychange", update); // back from another tab
};
begin().catch((error) => alarm(error.message));
