// The list of cases.  Only the lines that can be seen are in the page, so it may be very long.
import { $, make } from "./element.js";

const HEIGHT = 34; // px of a line
const AROUND = 5; // lines above and below those that can be seen
const STATES = ["", "✓ accepted", "✕ rejected", "↻ changed since", "● answered"];
export const [OPEN, ACCEPTED, REJECTED, VOID, RATED] = STATES.keys();

// The number of a case, and its id where ids are shown.
export const title = (row) => (typeof row.id === "string" ? `${row.case} · ${row.id}` : `${row.case}`);

export class List {
  // choose: called with the place of a line that is clicked.
  constructor(choose) {
    [this.box, this.rows, this.at] = [$("list"), [], 0];
    this.box.addEventListener("scroll", () => this.draw(this.rows, this.at));
    this.box.addEventListener("click", (event) => {
      const line = event.target.closest(".case");
      if (line) choose(Number(line.dataset.index));
    });
  }

  // Draws the lines, and scrolls to the one that is chosen.
  show(rows, at) {
    const { scrollTop, clientHeight } = this.box;
    const top = at * HEIGHT;
    $("rows").style.height = `${rows.length * HEIGHT}px`;
    if (top < scrollTop || top + HEIGHT > scrollTop + clientHeight) {
      this.box.scrollTop = top - clientHeight / 2;
    }
    this.draw(rows, at);
  }

  draw(rows, at) {
    Object.assign(this, { rows, at });
    const first = Math.max(0, Math.floor(this.box.scrollTop / HEIGHT) - AROUND);
    const count = Math.ceil(this.box.clientHeight / HEIGHT) + 2 * AROUND;
    $("rows").style.height = `${rows.length * HEIGHT}px`;
    const lines = rows.slice(first, first + count).map((row, k) => this.line(row, first + k));
    $("rows").replaceChildren(...lines);
    if ($(`row-${at}`)) this.box.setAttribute("aria-activedescendant", `row-${at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  line(row, index) {
    const line = make("div", "", "case");
    line.id = `row-${index}`;
    line.dataset.index = index;
    line.style.top = `${index * HEIGHT}px`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", String(index === this.at));
    line.setAttribute("aria-setsize", this.rows.length);
    line.setAttribute("aria-posinset", index + 1);
    line.append(make("span", title(row), "number"));
    if (row.flagged) line.append(make("span", "⚑", "flag"), make("span", "flagged", "unseen"));
    line.append(make("span", STATES[row.state], `state state-${row.state}`));
    return line;
  }
}
