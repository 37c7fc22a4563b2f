// Dialogs: a form that is submitted calls `done`, which returns what is wrong.
import { choose } from "./cases.js";
import { $ } from "./element.js";
import { show } from "./screen.js";
import { act, now } from "./state.js";
import { isOpen, noteOf, vote } from "./votes.js";

export const openDialog = (name, done) => {
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

export const askReason = () => {
  if (!isOpen()) return;
  const { pixels } = now.scene; // that the reader looks at now
  const radios = [...$("reasons").querySelectorAll("input")];
  const told = now.scene.verdict && now.scene.verdict.verdict === "reject" ? now.scene.verdict.reason : "";
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
export const askNote = () => {
  if (!now.scene || !now.scene.planes) return;
  const { pixels } = now.scene;
  $("note-text").value = noteOf();
  openDialog("note", () => {
    const old = now.scene.verdict && !now.scene.verdict.void ? now.scene.verdict : {};
    const note = $("note-text").value.trim();
    act(() => vote(now.blind
      ? { pixels, preferred: old.preferred || "none", note }
      : { pixels, verdict: old.verdict || "none", reason: old.reason || "", note }, true));
    return "";
  });
  $("note-text").select();
};
export const askCase = () => {
  $("goto-label").textContent = now.about.ids ? "Number or id" : "Number of the case";
  openDialog("goto", () => {
    const text = $("goto-text").value.trim();
    const found = now.rows.find((x) => String(x.case) === text) || now.rows.find((x) => x.id && x.id === text);
    if (!found) return `There is no case ${text} here.`;
    act(() => {
      choose(found.case);
      show();
    });
    return "";
  });
  $("goto-text").select();
};
