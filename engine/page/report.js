// Enlarges a picture on a click or Enter, and blinks between it and its neighbour.
"use strict";
(() => {
  const PERIOD = 800; // ms that each picture stays
  const viewer = document.getElementById("viewer");
  if (!viewer || !viewer.showModal) return;
  const [title, stage] = ["#viewer-title", ".stage"].map((x) => viewer.querySelector(x));
  const [flipper, blinker, closer] = viewer.querySelectorAll("button");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let pair = [];
  let at = 0;
  let timer = 0;

  const show = (k) => {
    at = k % pair.length;
    pair.forEach((x, i) => { x.hidden = i !== at; });
    title.textContent = pair[at].dataset.title;
  };
  const blink = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => show(at + 1), PERIOD) : 0;
    blinker.setAttribute("aria-pressed", String(on));
    blinker.textContent = on ? "Stop blinking" : "Blink";
  };
  const flip = () => { blink(false); show(at + 1); };
  const enlarge = (shot, height) => {
    const shots = [...shot.parentElement.querySelectorAll(".shot")];
    const first = Math.max(0, shots.indexOf(shot) - 1);
    const chosen = shots.slice(first, first + 2);
    pair = chosen.map((x) => x.cloneNode(true));
    pair.flatMap((x) => [...x.querySelectorAll("[tabindex]")]).forEach((x) => {
      ["tabindex", "role", "aria-label"].forEach((name) => x.removeAttribute(name));
    });
    stage.replaceChildren(...pair);
    show(chosen.indexOf(shot));
    blink(!calm.matches && pair.length > 1);
    flipper.hidden = blinker.hidden = pair.length < 2;
    viewer.showModal();
    stage.scrollTop = height * stage.scrollHeight - stage.clientHeight / 2;
    stage.focus();
  };

  document.querySelectorAll(".shot .stack").forEach((stack) => {
    const shot = stack.closest(".shot");
    stack.tabIndex = 0;
    stack.setAttribute("role", "button");
    stack.setAttribute("aria-label", `${shot.dataset.title}: enlarge`);
    stack.addEventListener("click", (event) => {
      const box = stack.getBoundingClientRect();
      enlarge(shot, (event.clientY - box.top) / box.height);
    });
    stack.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      enlarge(shot, 0);
    });
  });
  stage.addEventListener("click", flip);
  flipper.addEventListener("click", flip);
  blinker.addEventListener("click", () => blink(!timer));
  closer.addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.target.tagName === "BUTTON" || event.key !== " ") return;
    event.preventDefault();
    flip();
  });
  viewer.addEventListener("close", () => {
    blink(false);
    stage.replaceChildren();
  });
})();
