// The mouse on the images: it moves a zoomed image and the wipe, and its wheel zooms.
import { $ } from "./element.js";
import { move, wipe, zoom } from "./keys.js";
import { now, view } from "./state.js";

const within = (event) => { // where it points, in parts of the image and of the pane
  const box = (event.target.closest("canvas") || $("stage").querySelector("canvas")).getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  return {
    x: (x - now.place.left) / (now.scene.width * now.place.scale),
    y: (y - now.place.top) / (now.scene.height * now.place.stretch * now.place.scale),
    part: x / box.width,
  };
};
let drag = null;
$("stage").addEventListener("pointerdown", (event) => {
  if (!now.scene || !event.target.matches("canvas")) return;
  drag = { x: event.clientX, y: event.clientY, wipes: view.mode === "wipe" && !view.depths };
  $("stage").setPointerCapture(event.pointerId);
  if (drag.wipes) wipe(within(event).part);
});
$("stage").addEventListener("pointermove", (event) => {
  if (!drag || !now.scene) return;
  if (drag.wipes) {
    const box = $("stage").querySelector("canvas").getBoundingClientRect();
    wipe((event.clientX - box.left) / box.width);
    return;
  }
  const scale = { x: now.scene.width * now.place.scale, y: now.scene.height * now.place.stretch * now.place.scale };
  move((drag.x - event.clientX) / scale.x, (drag.y - event.clientY) / scale.y);
  Object.assign(drag, { x: event.clientX, y: event.clientY });
});
["pointerup", "pointercancel"].forEach((x) => $("stage").addEventListener(x, () => { drag = null; }));
$("stage").addEventListener("wheel", (event) => {
  if (!now.scene || !event.target.matches("canvas")) return;
  event.preventDefault();
  const { x, y } = within(event);
  zoom(event.deltaY < 0 ? 1.25 : 0.8, x, y);
}, { passive: false });
$("stage").addEventListener("dblclick", () => zoom(0));
