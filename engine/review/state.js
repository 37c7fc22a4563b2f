// What the page shows at this moment, and how; what it says; and one action after the other.
import { $ } from "./element.js";
import { title } from "./list.js";

export const now = {
  about: {}, // what stays the same in a session
  rows: [], // all cases, in the order of the server
  shown: [], // those that pass the filter
  at: 0, // in shown
  version: "", // of the list
  blind: false,
  scene: null, // of the case that is drawn; null while it is loaded
  place: null, // where the images are that were drawn last
  changes: 0, // of the mode and of verdicts
  ticket: 0, // of the latest picture that was asked for; an earlier one is not drawn any more
  since: 0, // ms: when the key was pressed that is being obeyed
};
export const view = {
  mode: "pair", which: 1, labels: 0, spread: false, depths: false, wipe: 0.5, zoom: 1, x: 0.5, y: 0.5,
};

export const current = () => now.shown[now.at];
export const nameOf = (row) => `Case ${title(row)}`;

export const alarm = (text) => {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
};
export const say = (text) => { $("said").textContent = text; }; // to those who listen
export const notice = (text) => { $("notice").textContent = text; }; // to all, until the next case

// One after the other: a key that comes while a verdict is stored waits for that.
let queue = Promise.resolve();
export const act = (action) => {
  const pressedAt = performance.now();
  queue = queue.then(() => {
    now.since = pressedAt;
    return action();
  }).catch((error) => alarm(error.message));
};
