// What is said of one case beside its images: verdict, flags and figures.
import { $, make } from "./element.js";

const WORDS = {
  accept: "Accepted", reject: "Rejected", none: "", left: "You preferred left",
  equal: "You saw no difference", right: "You preferred right",
};

// A stored verdict in words; empty if there is none.
export const tellVerdict = (told) => {
  if (!told) return "";
  const words = [WORDS[told.preferred || told.verdict], told.reason].filter(Boolean).join(": ");
  if (told.void) return `${words || "Looked at"} earlier, but the image changed since. Look again.`;
  const parts = [words, told.note && `Note: ${told.note}`].filter(Boolean);
  const who = [told.reviewer, told.time.slice(0, 16).replace("T", " ")].filter(Boolean).join(", ");
  return parts.length ? `${parts.join(". ")} (${who})` : "";
};

export const showCase = (scene, blind) => {
  const told = scene.verdict;
  $("verdict").textContent = tellVerdict(told) || (blind ? "Not answered yet" : "Not yet reviewed");
  $("verdict").className = told && !told.void ? told.verdict || "accept" : "";
  const flags = (scene.flags || []).map((flag) => {
    const item = make("li");
    item.append(make("b", flag.why), make("p", `${flag.means} ${flag.todo}`));
    return item;
  });
  const list = make("ul");
  list.append(...flags);
  $("why").replaceChildren(...(flags.length ? [make("h2", "Flagged"), list] : []));
  $("figures").replaceChildren(...(scene.numbers ? [makeTable(scene.numbers)] : []));
};

// rows: a title, the value before and the one after.
const makeTable = (rows) => {
  const heading = (text, scope) => Object.assign(make("th", text), { scope });
  const table = make("table");
  const head = table.createTHead().insertRow();
  head.append(make("td"), heading("before", "col"), heading("enhanced", "col"));
  const body = table.createTBody();
  rows.forEach(([name, ...values]) => {
    body.insertRow().append(heading(name, "row"), ...values.map((x) => make("td", x)));
  });
  return table;
};
