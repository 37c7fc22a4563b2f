// The page of a review: shows one case after the other, and sends verdicts to be stored.
// All that comes from the server is put into the page as text, never as HTML.
import { FILTERS, choose, refresh, setBlind } from "./cases.js";
import { $, make } from "./element.js";
import { setColours } from "./images.js";
import { show, update } from "./screen.js";
import { askJson } from "./server.js";
import { alarm, now } from "./state.js";
import "./mouse.js";

const POLL = 10000; // ms between two looks for new results

const begin = async () => {
  now.about = await askJson("session");
  setColours(now.about);
  now.blind = now.about.locked;
  now.about.reasons.forEach((reason, k) => {
    const label = make("label");
    const radio = Object.assign(make("input"), { type: "radio", name: "reason", value: reason });
    label.append(radio, make("kbd", k + 1), ` ${reason}`);
    $("reasons").append(label);
  });
  now.about.classes.forEach((x) => {
    const item = make("span");
    const key = make("i", "", "key");
    key.style.background = x.colour;
    item.append(key, ` ${x.name}`);
    $("legend").append(item);
  });
  $("legend").append(make("span", "On the enhanced image. White lines: the two levels that a curve angle is between"));
  $("missing").textContent = now.about.missing;
  $("sides").textContent = now.about.sides;
  $("caution").textContent = now.about.caution;
  if (now.blind) await setBlind(true);
  else await refresh();
  const next = now.rows.find(FILTERS.open); // where an earlier review stopped
  choose(next && next.case);
  $("stage").focus();
  await show();
  setInterval(update, POLL);
  document.addEventListener("visibilitychange", update); // back from another tab
};
begin().catch((error) => alarm(error.message));
