export const $ = (id) => document.getElementById(id);

// An element with a text, which is never taken for HTML.
export const make = (tag, text = "", name = "") => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
};
