// The query photo: chosen, dropped or pasted; the part to look for; and what is told meanwhile.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const form = get("ask"), input = get("image"), photo = get("photo"), stage = get("stage");
  const byId = get("by-id"), box = get("box"), found = get("found");
  const fields = ["x", "y", "w", "h"].map((name) => get("box-" + name));
  // Width and height in the pixels that boxes count: those of the upright original.
  let size = null;
  let address = null;

  function show(url, name, known) {
    if (address) URL.revokeObjectURL(address);
    address = url.startsWith("blob:") ? url : null;
    size = null;
    form.classList.add("has-photo");
    get("chosen").hidden = false;
    get("go").disabled = false;
    get("photo-name").textContent = name;
    get("photo-size").textContent = "";
    get("no-preview").hidden = true;
    stage.hidden = false;
    setBox(null);
    photo.onload = () => {
      size = known || [photo.naturalWidth, photo.naturalHeight];
      get("photo-size").textContent = `${size[0]} × ${size[1]} px`;
      fields.forEach((field, i) => { field.max = size[i % 2]; });
      drawBox();
      // It has just pushed everything down.
      if (found.hasAttribute("aria-busy")) reveal();
    };
    photo.onerror = () => {
      stage.hidden = true;
      get("no-preview").hidden = false;
    };
    photo.src = url;
  }

  function take(file) {
    byId.value = "";
    show(URL.createObjectURL(file), file.name || "pasted photo", null);
    form.requestSubmit();
  }

  // Files that were dropped or pasted become the form's own.
  function put(files) {
    const file = [...files].find((one) => one.type.startsWith("image/") || /\.(hei[cf]|tiff?)$/i.test(one.name));
    if (!file || !input) {
      complain("That is not a photo.");
      return;
    }
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    take(file);
  }

  function complain(reason) {
    const part = get("complaint").content.firstElementChild.cloneNode(true);
    part.querySelector("bdi").textContent = reason;
    const working = found.querySelector(".working");
    found.replaceChildren(...(working ? [working] : []), part);
  }

  input?.addEventListener("change", () => { if (input.files.length) take(input.files[0]); });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    if (files?.length) {
      event.preventDefault();
      put(files);
    }
  });
  let inside = 0;
  const over = (change) => {
    inside = Math.max(0, inside + change);
    document.body.classList.toggle("dragging", inside > 0);
  };
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => { if (isFiles(event)) over(1); });
  document.addEventListener("dragleave", (event) => { if (isFiles(event)) over(-1); });
  document.addEventListener("dragover", (event) => { if (isFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    over(-inside);
    put(event.dataTransfer.files);
  });

  // The box, [left, top, width, height] in pixels of the original; null is the whole photo.
  function readBox() {
    const values = fields.map((field) => field.value === "" ? NaN : Number(field.value));
    return values.every(Number.isFinite) && values[2] > 0 && values[3] > 0 ? values : null;
  }

  function setBox(values) {
    fields.forEach((field, i) => { field.value = values ? values[i] : ""; });
    drawBox();
  }

  function drawBox() {
    const values = readBox();
    box.value = values ? values.join(",") : "";
    get("whole").disabled = !values;
    const overlay = get("overlay");
    if (!size || !photo.complete) return;
    // The drawing lies exactly on the picture, whatever the page makes of its size.
    overlay.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    overlay.setAttribute("width", photo.clientWidth);
    overlay.setAttribute("height", photo.clientHeight);
    const [x, y, w, h] = values || [0, 0, 0, 0];
    for (const frame of [get("frame-dark"), get("frame-light")]) {
      frame.toggleAttribute("hidden", !values);
      for (const [name, value] of Object.entries({ x, y, width: w, height: h })) frame.setAttribute(name, value);
    }
    get("shade").setAttribute("d", values
      ? `M0 0H${size[0]}V${size[1]}H0ZM${x} ${y}V${y + h}H${x + w}V${y}Z` : "");
  }

  fields.forEach((field) => field.addEventListener("input", drawBox));
  get("whole").addEventListener("click", () => {
    setBox(null);
    form.requestSubmit();
  });
  get("draw").addEventListener("click", (event) => {
    const drawing = stage.classList.toggle("drawing");
    event.currentTarget.setAttribute("aria-pressed", drawing);
  });
  new ResizeObserver(drawBox).observe(photo);

  let start = null, before = null;
  const place = (event) => {
    const area = photo.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]
      .map((part, i) => Math.round(Math.min(1, Math.max(0, part)) * size[i]));
  };
  photo.addEventListener("pointerdown", (event) => {
    const may = event.pointerType !== "touch" || stage.classList.contains("drawing");
    if (!size || event.button || !may) return;
    event.preventDefault();
    start = place(event);
    before = readBox();
    photo.setPointerCapture(event.pointerId);
  });
  photo.addEventListener("pointermove", (event) => {
    if (!start) return;
    const end = place(event);
    const [x, y] = [0, 1].map((i) => Math.min(start[i], end[i]));
    const [w, h] = [0, 1].map((i) => Math.abs(start[i] - end[i]));
    if (w && h) setBox([x, y, w, h]);
  });
  const finish = (keep) => {
    if (!start) return;
    start = null;
    const drawn = readBox();
    // A click is no box.
    const small = drawn && Math.min(drawn[2], drawn[3]) < Math.max(4, Math.min(...size) / 50);
    if (!keep || !drawn || small) setBox(before);
    else form.requestSubmit();
  };
  photo.addEventListener("pointerup", () => finish(true));
  photo.addEventListener("pointercancel", () => finish(false));

  // On a narrow window the hits lie below the form.
  function reveal() {
    if (found.getBoundingClientRect().top > window.innerHeight * 0.6) found.scrollIntoView({ block: "start" });
  }

  // What a search is told, and told of.
  form.addEventListener("htmx:beforeRequest", () => {
    found.setAttribute("aria-busy", "true");
    get("told").textContent = "Searching";
    reveal();
  });
  form.addEventListener("htmx:afterRequest", () => {
    found.removeAttribute("aria-busy");
    reveal();
    // A trouble tells of itself.
    get("told").textContent = found.querySelector(".answer h2")?.textContent || "";
  });
  // What stands before the pages' own answers, the guard or a proxy, knows nothing of this page.
  found.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (xhr.status < 400 || xhr.responseText.includes('class="trouble"')) return;
    event.detail.shouldSwap = false;
    const plain = xhr.getResponseHeader("content-type")?.startsWith("text/plain");
    complain(plain ? xhr.responseText : `The server's answer was status ${xhr.status}.`);
  });
  form.addEventListener("htmx:sendError", () => complain("The server does not answer. Is it still running?"));
  form.addEventListener("submit", (event) => {
    const file = byId.value ? null : input?.files[0];
    const most = Number(input?.dataset.most);
    if (byId.value || (file && file.size <= most)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const mib = (bytes) => (bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0);
    complain(file ? `The file has ${mib(file.size)} MiB; this server takes up to ${mib(most)} MiB.` : "Choose a photo first.");
  }, true);

  // Shared with the match view.
  window.delgQuery = {
    form,
    url: () => photo.src,
    shown: () => !stage.hidden,
  };

  if (byId.value) {
    const { photo: url, width, height } = byId.dataset;
    show(url, byId.value, width ? [Number(width), Number(height)] : null);
  }
})();
