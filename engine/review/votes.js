// Verdicts: they are stored by the server before the page goes on, and can be taken back.
import { choose, scenes, setBlind } from "./cases.js";
import { showCase } from "./case.js";
import { $ } from "./element.js";
import { ACCEPTED, OPEN, RATED, REJECTED } from "./list.js";
import { go, list, show, showHeader, update } from "./screen.js";
import { askJson } from "./server.js";
import { alarm, current, nameOf, notice, now } from "./state.js";

const undo = [];

export const vote = async (ballot, stays = false) => {
  const row = current();
  const mine = now.scene;
  if (!mine || !row || $("stage").dataset.case !== String(row.case)) {
    return notice("Wait for the picture.");
  }
  const old = mine.verdict && !mine.verdict.void ? mine.verdict : null;
  const told = await send({ case: row.case, pixels: mine.pixels, ...ballot });
  if (!told) return undefined;
  undo.push({ case: row.case, pixels: mine.pixels, blind: now.blind, at: told.at, old });
  const words = `${nameOf(row)}: ${$("verdict").textContent}. `;
  if (now.shown[now.at + 1] && !stays && $("advance").checked) return go(now.at + 1, words);
  return notice(now.shown[now.at + 1] || stays ? words : `${words}This is the last case.`);
};
const send = async (ballot) => {
  try {
    const told = await askJson("verdict", ballot);
    now.changes += 1;
    alarm("");
    const row = now.rows.find((x) => x.case === ballot.case);
    if (row) {
      row.state = ballot.preferred
        ? (ballot.preferred === "none" ? OPEN : RATED)
        : { accept: ACCEPTED, reject: REJECTED, none: OPEN }[ballot.verdict];
    }
    showHeader();
    list.draw(now.shown, now.at);
    if (now.scene && now.scene.case === ballot.case) {
      now.scene.verdict = told;
      showCase(now.scene, now.blind);
    }
    return told;
  } catch (error) {
    alarm(`Not stored: ${error.message}`);
    if (error.code === 409) {
      scenes.clear();
      now.version = "";
      await update();
    }
    return null;
  }
};
export const takeBack = async () => {
  const last = undo.pop();
  if (!last) return notice("There is nothing to undo.");
  if (last.blind !== now.blind) await setBlind(last.blind);
  const old = last.old || {};
  const ballot = { case: last.case, pixels: last.pixels, note: old.note || "", instead_of: last.at };
  if (now.blind) ballot.preferred = old.preferred || "none";
  else Object.assign(ballot, { verdict: old.verdict || "none", reason: old.reason || "" });
  const told = await send(ballot);
  scenes.delete(`${+now.blind}/${last.case}`);
  choose(last.case);
  await show();
  return notice(told ? "Undone." : "");
};
export const isOpen = () => !now.blind && now.scene;
export const accept = () => (isOpen() ? vote({ verdict: "accept", note: noteOf() }) : waitFor());
const waitFor = () => { if (!now.scene) notice("Wait for the picture."); };
export const noteOf = () => (now.scene.verdict && !now.scene.verdict.void ? now.scene.verdict.note : "");
export const prefer = (side) => (now.blind && now.scene ? vote({ preferred: side, note: noteOf() }) : waitFor());
