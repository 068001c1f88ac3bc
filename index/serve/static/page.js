// A thumbnail that cannot be loaded says so.
"use strict";
// Where the pages of this index begin: several indexes may have one server.
const delgRoot = document.documentElement.dataset.root;
document.addEventListener("error", (event) => {
  const image = event.target;
  if (image instanceof HTMLImageElement && image.classList.contains("thumb")) {
    image.closest(".mat, .framed")?.classList.add("gone");
  }
}, true);
// Groups of hits unfold.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-group]");
  if (!button) return;
  const isOpen = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", !isOpen);
  for (const hit of button.closest("ol").querySelectorAll(`[data-in-group="${button.dataset.group}"]`)) hit.hidden = isOpen;
  button.dataset.closed ||= button.textContent;
  button.textContent = isOpen ? button.dataset.closed : "Show fewer";
});
// "The same" or "not the same", said of a hit; said again, it is taken back.
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-mark]");
  if (!button) return;
  const { key, name } = button.closest(".answer").dataset, { image, mark } = button.dataset;
  const verdict = button.getAttribute("aria-pressed") === "true" ? "none" : mark;
  const response = await fetch(delgRoot + "/api/marks?" + new URLSearchParams({ query: key, image, verdict, name }), { method: "POST" });
  if (!response.ok) {
    button.title = (await response.json()).error;
    return;
  }
  for (const each of button.parentElement.querySelectorAll("[data-mark]")) {
    each.setAttribute("aria-pressed", each.dataset.mark === verdict);
  }
});
// The menu closes as menus do.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});
