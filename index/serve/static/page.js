// A thumbnail that cannot be loaded says so.
"use strict";
document.addEventListener("error", (event) => {
  const image = event.target;
  if (image instanceof HTMLImageElement && image.classList.contains("thumb")) {
    image.closest(".mat, .framed")?.classList.add("gone");
  }
}, true);
// On a narrow window the present page's name may lie outside the row of names.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector("nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
});
