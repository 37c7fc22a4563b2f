// Draws the page: the images of one case, what is said of it, the header, the tools and the list.
import { FILTERS, choose, load, refresh } from "./cases.js";
import { showCase, tellVerdict } from "./case.js";
import { $, make } from "./element.js";
import { draw } from "./images.js";
import { ACCEPTED, List, OPEN, RATED, REJECTED, VOID } from "./list.js";
import { ENDED, askJson } from "./server.js";
import { act, alarm, current, nameOf, notice, now, say, view } from "./state.js";

export const list = new List((index) => act(() => go(index)));

// --- images

const before = () => (now.scene.optimal === null ? "" : `depth ${now.scene.optimal}`);
export const panes = () => { // what is drawn side by side: title, image, and one that the wipe uncovers
  if (now.blind) {
    const [left, right] = [{ title: "Left", name: "left" }, { title: "Right", name: "right" }];
    if (view.mode === "wipe") return [{ title: "Left | Right", name: "left", over: "right" }];
    return view.mode === "pair" ? [left, right] : [view.which ? right : left];
  }
  const enhanced = { title: "Enhanced", name: "enhanced" };
  const old = before() && {
    title: now.scene.depths > 1 ? `Before (depth ${now.scene.optimal})` : "Before",
    name: before(),
  };
  let found;
  if (view.depths && old) {
    found = now.scene.planes.filter((x) => x.startsWith("depth ")).map((name) => {
      const word = name === before() ? "Before:" : "Depth";
      return { title: `${word} ${name.slice(6)}`, name };
    });
    found.push(enhanced);
  } else if (!old) found = [enhanced];
  else if (view.mode === "wipe") found = [{ title: "Before | Enhanced", name: old.name, over: "enhanced" }];
  else found = view.mode === "pair" ? [old, enhanced] : [view.which ? enhanced : old];
  if (view.spread && now.scene.px.spread) {
    found.push({ title: `Spread, ${now.about.draws} draws`, name: "spread" });
  }
  return found;
};

export const drawAll = () => {
  if (!now.scene) return;
  const wanted = panes();
  const stage = $("stage");
  now.place = draw(stage, now.scene, wanted, now.blind ? { ...view, labels: 0 } : view);
  [view.x, view.y] = [now.place.x, now.place.y];
  stage.setAttribute("aria-label", `case ${now.scene.case}: ${wanted.map((x) => x.title).join(", ")}`);
  stage.classList.toggle("zoomed", view.zoom > 1);
  stage.classList.toggle("many", wanted.length > 3);
  showTools();
};

// --- one case

export const show = async (spoken = "") => {
  const row = current();
  const began = now.since;
  const mine = (now.ticket += 1);
  now.scene = null;
  delete $("stage").dataset.case;
  notice("");
  showHeader();
  list.show(now.shown, now.at);
  if (!row) return showNothing();
  try {
    const found = await load(row.case);
    if (mine !== now.ticket) return undefined; // the reader has gone on
    now.scene = found;
  } catch (error) {
    if (mine === now.ticket) showNothing(error.message);
    if (error.message === ENDED) alarm(ENDED);
    return undefined;
  }
  drawAll();
  showCase(now.scene, now.blind);
  const flagged = now.scene.flags && now.scene.flags.length ? ` Flagged: ${now.scene.flags.map((x) => x.why).join("; ")}.` : "";
  say(`${spoken}${nameOf(row)}, ${now.at + 1} of ${now.shown.length}.${flagged} ${tellVerdict(now.scene.verdict)}`);
  requestAnimationFrame(() => setTimeout(() => {
    if (mine !== now.ticket) return;
    $("stage").dataset.ms = (performance.now() - began).toFixed(1);
    $("stage").dataset.case = row.case;
    [now.at + 1, now.at - 1].filter((k) => now.shown[k]).forEach((k) => load(now.shown[k].case).catch(() => {}));
  }));
  if (view.labels) await addAngles();
  return undefined;
};

export const addAngles = async () => {
  const mine = now.scene;
  if (!mine || now.blind || mine.angles) return;
  try {
    mine.angles = (await askJson(`marks/${mine.case}`)).angles;
  } catch {
    mine.angles = []; // the labels are there without them
  }
  if (mine === now.scene) drawAll();
};

const showNothing = (words) => {
  const filter = $("filter").selectedOptions[0].textContent;
  const text = words || (now.rows.length ? `No case is here: ${filter}.` : "No case is done yet.");
  $("stage").replaceChildren(make("p", text, "empty"));
  ["why", "figures"].forEach((x) => $(x).replaceChildren());
  $("verdict").textContent = "";
  say(text);
  showTools();
};

export const showHeader = () => {
  const row = current();
  $("position").textContent = row ? `${now.at + 1} of ${now.shown.length}` : `0 of ${now.shown.length}`;
  $("name").textContent = row ? `${nameOf(row)}${row.flagged ? " ⚑ flagged" : ""}` : "";
  const number = (state) => now.rows.filter((x) => x.state === state).length;
  const parts = now.blind
    ? [`${number(RATED)} of ${now.rows.length} answered`]
    : [`${number(ACCEPTED)} accepted`, `${number(REJECTED)} rejected`, `${number(OPEN) + number(VOID)} to review`];
  if (now.about.left.failed) parts.push(`${now.about.left.failed} failed, not shown`);
  if (now.about.left.damaged) parts.push("some records are damaged: see mcdiff-batch verify");
  if (now.about.left.running) parts.push("the run goes on");
  if (now.about.reviewer) parts.push(now.about.reviewer);
  $("progress").textContent = parts.join(" · ");
  document.title = `${$("position").textContent} · Review`;
  document.body.classList.toggle("blind", now.blind);
};

const pressed = (key, on) => document.querySelector(`button[data-key="${key}"]`).setAttribute("aria-pressed", String(on));
const showTools = () => {
  const able = Boolean(now.scene) && (now.blind || before());
  pressed("c", view.mode === "pair" && !view.depths);
  pressed("w", view.mode === "wipe" && !view.depths);
  pressed("d", view.depths && !now.blind);
  pressed("l", view.labels > 0 && !now.blind);
  pressed("s", view.spread && !now.blind);
  pressed("b", now.blind);
  const off = {
    " ": !able, c: !able, w: !able, d: now.blind || !able || !(now.scene.depths > 1), l: now.blind,
    s: now.blind || !(now.about.draws > 1), b: now.about.locked || Boolean(now.about.missing),
  };
  Object.entries(off).forEach(([key, x]) => {
    document.querySelector(`button[data-key="${key}"]`).disabled = x;
  });
  $("wiper").disabled = !able || view.mode !== "wipe" || view.depths;
  $("wiper").value = 100 * view.wipe;
  $("legend").hidden = !view.labels || now.blind;
  $("open-votes").hidden = now.blind;
  $("blind-votes").hidden = !now.blind;
};

// --- from case to case

export const go = (index, spoken) => { // does not wait for the picture, so that one can leaf quickly
  const target = now.shown[Math.min(Math.max(index, 0), now.shown.length - 1)];
  choose(target && target.case);
  show(spoken);
};
export const step = (by) => {
  if (now.shown[now.at + by]) go(now.at + by);
  else notice(by > 0 ? "This is the last case." : "This is the first case.");
};
export const filter = () => {
  const fits = FILTERS[$("filter").value];
  const row = current();
  choose(row && fits(row) ? row.case : undefined);
  show(`${$("filter").selectedOptions[0].textContent}: `);
};

// --- news

export const update = async () => { // looks for new results and for verdicts of others
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
  list.draw(now.shown, now.at);
  if (!row) return show();
  const mine = now.ticket;
  const fresh = await load(row.case);
  if (mine !== now.ticket || !now.scene) return undefined; // the reader has gone on
  if (fresh.pixels === now.scene.pixels) fresh.angles = now.scene.angles;
  else notice("The image has just changed: look again.");
  now.scene = fresh;
  drawAll();
  return showCase(now.scene, now.blind);
};

new ResizeObserver(() => {
  drawAll();
  list.draw(now.shown, now.at);
}).observe($("stage"));
