// The list of cases and the case itself, as the server has them, and which of them are shown.
import { $ } from "./element.js";
import { OPEN, REJECTED, VOID } from "./list.js";
import { ask, askJson, unpack } from "./server.js";
import { current, now } from "./state.js";

const KEPT = 8; // cases in memory
export const scenes = new Map(); // promises, by mode and case
export const FILTERS = {
  all: () => true,
  flagged: (x) => x.flagged,
  open: (x) => x.state === OPEN || x.state === VOID,
  rejected: (x) => x.state === REJECTED,
};

export const refresh = async () => {
  const asked = now.changes;
  const found = await askJson(`cases?blind=${+now.blind}&known=${now.version}`);
  if (found.version === null || asked !== now.changes) return false; // it may be out of date already
  scenes.clear(); // an image or a verdict may be another
  now.version = found.version;
  now.rows = found.cases.map((number, k) => ({
    case: number,
    id: found.ids && found.ids[k],
    flagged: found.flagged[k] === "1",
    state: Number(found.states[k]),
  }));
  now.about.left = found;
  return true;
};

export const load = (number) => {
  const key = `${+now.blind}/${number}`;
  if (!scenes.has(key)) {
    const found = ask(`case/${number}?blind=${+now.blind}`).then((x) => x.arrayBuffer()).then(unpack);
    found.catch(() => scenes.delete(key));
    scenes.set(key, found);
    if (scenes.size > KEPT) scenes.delete(scenes.keys().next().value);
  }
  return scenes.get(key);
};

export const choose = (number) => { // applies the filter, and keeps a case that is looked at
  const fits = FILTERS[$("filter").value];
  now.shown = now.rows.filter((x) => fits(x) || x.case === number);
  now.at = Math.max(0, now.shown.findIndex((x) => x.case === number));
};

export const setBlind = async (on) => {
  const row = current();
  now.blind = on;
  now.changes += 1;
  now.ticket += 1;
  now.scene = null;
  now.version = "";
  [...$("filter").options].forEach((x) => { x.disabled = now.blind && ["flagged", "rejected"].includes(x.value); });
  if ($("filter").selectedOptions[0].disabled) $("filter").value = "all";
  await refresh();
  choose(row && row.case);
};
