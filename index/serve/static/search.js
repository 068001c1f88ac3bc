// The search form: choose, drop or paste a photo, select a part of it, and submit.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const form = get("query-form"), input = get("image"), photo = get("photo"), stage = get("stage");
  const byId = get("by-id"), box = get("box"), results = get("results"), boxing = get("boxing");
  const options = ["k", "rerank", "orientations", "min_probability"].map((name) => form.elements[name]);
  const defaults = options.map((option) => option.value), verifiedOnly = form.elements.verified_only;
  const fields = ["x", "y", "w", "h"].map((name) => get("box-" + name));
  // [width, height] of the upright original, in whose pixels boxes are given.
  let size = null;
  let blobUrl = null;

  function show(url, name, knownSize) {
    if (blobUrl) URL.revokeObjectURL(blobUrl);
    blobUrl = url.startsWith("blob:") ? url : null;
    size = null;
    form.classList.add("has-photo");
    get("chosen").hidden = false;
    get("photo-name").textContent = name;
    get("photo-size").textContent = "";
    get("no-preview").hidden = true;
    stage.hidden = false;
    setBox(null);
    photo.onload = () => {
      size = knownSize || [photo.naturalWidth, photo.naturalHeight];
      get("photo-size").textContent = `${size[0]} × ${size[1]} px`;
      fields.forEach((field, i) => { field.max = size[i % 2]; });
      drawBox();
      // The photo has pushed the results down.
      if (results.hasAttribute("aria-busy")) reveal();
    };
    photo.onerror = () => {
      stage.hidden = true;
      get("no-preview").hidden = false;
    };
    photo.src = url;
  }

  function setFile(file) {
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    byId.value = "";
    show(URL.createObjectURL(file), file.name || "pasted photo", null);
  }

  function choose(file) {
    clearExtras();
    setFile(file);
    form.requestSubmit();
  }

  // Dropped or pasted files become the form's input.
  function chooseFiles(files) {
    const file = [...files].find((candidate) => candidate.type.startsWith("image/") || /\.(hei[cf]|tiff?)$/i.test(candidate.name));
    if (!file || !input) {
      showError("This is not a photo.");
      return;
    }
    choose(file);
  }

  function showError(reason) {
    const part = get("error-template").content.firstElementChild.cloneNode(true);
    part.querySelector("bdi").textContent = reason;
    const working = results.querySelector(".working");
    results.replaceChildren(...(working ? [working] : []), part);
  }

  // An untouched or cancelled choice keeps what was searched with.
  for (const chooser of [input, get("camera")]) {
    chooser?.addEventListener("change", () => { if (chooser.files.length) choose(chooser.files[0]); });
  }
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    if (files?.length) {
      event.preventDefault();
      chooseFiles(files);
    }
  });
  let depth = 0;
  const track = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => { if (isFiles(event)) track(1); });
  document.addEventListener("dragleave", (event) => { if (isFiles(event)) track(-1); });
  document.addEventListener("dragover", (event) => { if (isFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    track(-depth);
    chooseFiles(event.dataTransfer.files);
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
    get("whole-row").hidden = !values;
    const overlay = get("overlay");
    if (!size || !photo.complete) return;
    // The overlay covers the photo exactly at its present size.
    overlay.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    overlay.setAttribute("width", photo.clientWidth);
    overlay.setAttribute("height", photo.clientHeight);
    const [x, y, w, h] = values || [0, 0, 0, 0];
    for (const frame of [get("frame-dark"), get("frame-light")]) {
      frame.toggleAttribute("hidden", !values);
      for (const [name, value] of Object.entries({ x, y, width: w, height: h })) frame.setAttribute(name, value);
    }
    placeParts(values);
    get("shade").setAttribute("d", values
      ? `M0 0H${size[0]}V${size[1]}H0ZM${x} ${y}V${y + h}H${x + w}V${y}Z` : "");
  }

  // Things that the engine sees in the photo: a dot on each leads to its own answer.
  const parts = get("parts-of-photo");
  const nameOf = (button) => button.querySelector("bdi")?.textContent || "this part";
  function placeParts(values) {
    const buttons = values ? [] : [...results.querySelectorAll("[data-part]")];
    const places = [], width = 28;
    parts.replaceChildren(...buttons.flatMap((button, number) => {
      const [x, y, w, h] = button.dataset.part.split(",").map(Number);
      const left = photo.offsetLeft + (x + w / 2) / size[0] * photo.clientWidth;
      const top = photo.offsetTop + (y + h / 2) / size[1] * photo.clientHeight;
      // On a small photo, dots would hide each other; the list below has all of them.
      if (places.some(([a, b]) => Math.hypot(left - a, top - b) < width)) return [];
      places.push([left, top]);
      const dot = Object.assign(document.createElement("button"), { type: "button", className: "dot", textContent: number + 1 });
      dot.dataset.part = button.dataset.part;
      dot.setAttribute("aria-label", `${number + 1}: search for ${nameOf(button)} alone`);
      dot.style.left = `${left}px`;
      dot.style.top = `${top}px`;
      return [dot];
    }));
  }
  document.addEventListener("click", (event) => {
    const part = event.target.closest?.("[data-part]");
    if (!part) return;
    setBox(part.dataset.part.split(",").map(Number));
    form.requestSubmit();
  });

  fields.forEach((field) => field.addEventListener("input", drawBox));
  get("whole").addEventListener("click", () => {
    setBox(null);
    form.requestSubmit();
  });
  new ResizeObserver(drawBox).observe(photo);

  let start = null, before = null;
  const place = (event) => {
    const area = photo.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]
      .map((part, i) => Math.round(Math.min(1, Math.max(0, part)) * size[i]));
  };
  photo.addEventListener("pointerdown", (event) => {
    // A finger scrolls the page, unless a part is to be drawn.
    const may = event.pointerType !== "touch" || boxing.open;
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
    // A click, or a very small box, selects nothing.
    const small = drawn && Math.min(drawn[2], drawn[3]) < Math.max(4, Math.min(...size) / 50);
    if (!keep || !drawn || small) setBox(before);
    else form.requestSubmit();
  };
  // Filters, "KEY=VALUE" each, as chips.
  const filters = () => [...get("filters").querySelectorAll("input")].map((input) => input.value);
  function addFilter(text) {
    if (filters().includes(text)) return;
    const chip = get("chip-template").content.firstElementChild.cloneNode(true);
    chip.querySelector("input").value = text;
    chip.querySelector("bdi").textContent = text.replace("=", ": ");
    get("filters").append(chip);
  }
  get("filters").addEventListener("click", (event) => {
    if (!event.target.closest("button")) return;
    event.target.closest(".chip").remove();
    form.requestSubmit();
  });
  document.addEventListener("click", (event) => {
    const facet = event.target.closest?.("button[data-where]");
    if (!facet) return;
    addFilter(facet.dataset.where);
    form.requestSubmit();
  });
  // Further photos of the thing, and photos of what it is not: files, or photos of the index.
  const extras = get("extras"), added = { plus: get("more-images"), minus: get("minus-images") };
  const extraFiles = { plus: [], minus: [] };
  const extraIds = (sign) => [...extras.querySelectorAll(`input[name=${sign}]`)].map((each) => each.value);
  // In the order in which the server numbers the photos of a query.
  const extraImages = () => ["file", "id"].flatMap((kind) => [...extras.querySelectorAll(`[data-sign=plus][data-kind=${kind}] img`)]);

  function addExtra(sign, { file, id }) {
    const name = id ?? (file.name || "pasted photo");
    if (extras.children.length >= Number(extras.dataset.most)) {
      showError(`A query takes up to ${1 + Number(extras.dataset.most)} photos.`);
      return false;
    }
    if (id && (id === byId.value || extraIds("plus").includes(id) || extraIds("minus").includes(id))) return false;
    const item = get("extra-template").content.firstElementChild.cloneNode(true);
    const image = item.querySelector("img"), button = item.querySelector("button");
    Object.assign(item.dataset, { sign, kind: file ? "file" : "id" });
    item.querySelector("b").textContent = sign === "plus" ? "and" : "but not";
    item.querySelector("bdi").textContent = name;
    button.setAttribute("aria-label", `Remove ${name}`);
    if (file) {
      extraFiles[sign].push(file);
      image.src = image.dataset.photo = URL.createObjectURL(file);
    } else {
      const address = `${delgRoot}/api/images/${encodeURIComponent(id)}`;
      image.src = `${address}/thumb`;
      image.dataset.photo = `${address}/photo`;
      image.dataset.about = address;
      item.append(Object.assign(document.createElement("input"), { type: "hidden", name: sign, value: id }));
    }
    button.addEventListener("click", () => {
      if (file) extraFiles[sign].splice(extraFiles[sign].indexOf(file), 1);
      item.remove();
      showExtras();
      (extras.querySelector("button") || get("adding").querySelector("summary")).focus();
      form.requestSubmit();
    });
    extras.append(item);
    showExtras();
    return true;
  }

  function showExtras() {
    for (const [sign, chooser] of Object.entries(added)) {
      const transfer = new DataTransfer();
      extraFiles[sign].forEach((file) => transfer.items.add(file));
      chooser.files = transfer.files;
    }
    // A part is searched for by itself.
    const has = extras.children.length > 0;
    form.classList.toggle("has-extras", has);
    if (has) setBox(null);
  }

  function clearExtras() {
    extras.replaceChildren();
    extraFiles.plus = [];
    extraFiles.minus = [];
    showExtras();
  }

  for (const [sign, chooser] of Object.entries(added)) {
    chooser.addEventListener("change", () => {
      // Those chosen before stay.
      const files = [...chooser.files];
      if (files.map((file) => addExtra(sign, { file })).some(Boolean)) form.requestSubmit();
    });
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-plus], [data-minus]");
    if (!button) return;
    const sign = "plus" in button.dataset ? "plus" : "minus";
    if (!addExtra(sign, { id: button.dataset[sign] })) return;
    form.requestSubmit();
    form.scrollIntoView({ block: "start" });
  });

  [...options, verifiedOnly].forEach((option) => option.addEventListener("change", () => form.requestSubmit()));
  boxing.addEventListener("toggle", drawBox);
  photo.addEventListener("pointerup", () => finish(true));
  photo.addEventListener("pointercancel", () => finish(false));

  // In narrow windows the results are below the form.
  function reveal() {
    if (results.getBoundingClientRect().top > window.innerHeight * 0.6) results.scrollIntoView({ block: "start" });
  }

  // Status messages for screen readers.
  form.addEventListener("htmx:beforeRequest", () => {
    results.setAttribute("aria-busy", "true");
    get("search-status").textContent = "Searching";
    reveal();
  });
  form.addEventListener("htmx:afterRequest", (event) => {
    results.removeAttribute("aria-busy");
    if (event.detail.successful) remember();
    drawBox();
    reveal();
    // Errors announce themselves (role=alert).
    get("search-status").textContent = results.querySelector(".answer h2")?.textContent || "";
  });
  // Responses of the security middleware or of a proxy are no fragments of this page.
  results.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (xhr.status < 400 || xhr.responseText.includes('class="error"')) return;
    event.detail.shouldSwap = false;
    const plain = xhr.getResponseHeader("content-type")?.startsWith("text/plain");
    showError(plain ? xhr.responseText : `The server answered with status ${xhr.status}.`);
  });
  form.addEventListener("htmx:sendError", () => showError("The server does not answer. Is it still running?"));
  form.addEventListener("submit", (event) => {
    const file = byId.value ? null : input?.files[0];
    const maxBytes = Number(input?.dataset.maxBytes);
    if (byId.value || (file && file.size <= maxBytes)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const mib = (bytes) => (bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0);
    showError(file ? `The file has ${mib(file.size)} MiB; this server takes up to ${mib(maxBytes)} MiB.` : "Choose a photo first.");
  }, true);

  // The address of a query of the index says all of it; that of an upload names it in this browser.
  function remember() {
    const values = [["box", box.value],
      ...options.map((option, i) => [option.name, option.value === defaults[i] ? "" : option.value]),
      ["verified_only", verifiedOnly.checked ? "true" : ""], ...filters().map((text) => ["where", text]),
      ...["plus", "minus"].flatMap((sign) => extraIds(sign).map((id) => [sign, id]))]
      .filter(([, value]) => value);
    const hasFiles = extraFiles.plus.length || extraFiles.minus.length;
    if (byId.value && !hasFiles) {
      move("?" + new URLSearchParams([["id", byId.value], ...values]));
      return;
    }
    if (!input?.files.length && !byId.value) return;
    if (restored) {
      move(here());
      return;
    }
    const key = delgHistory.newKey();
    const [file] = byId.value ? [] : input.files;
    delgHistory.put(key, { file, id: byId.value, name: file?.name, values, ...extraFiles });
    move("#query-" + key);
  }

  const here = () => location.search + (delgHistory.keyOf(location.hash) ? location.hash : "");
  let restored = false, shownAddress = here();
  function move(address) {
    if (!restored && here() !== address) history.pushState(null, "", location.pathname + address);
    else if (history.state?.scroll) window.scrollTo(0, history.state.scroll);
    restored = false;
    shownAddress = here();
  }

  function setValues(pairs) {
    const values = Object.fromEntries(pairs);
    options.forEach((option, i) => { option.value = values[option.name] || defaults[i]; });
    verifiedOnly.checked = values.verified_only === "true";
    for (const sign of ["plus", "minus"]) {
      pairs.filter(([name]) => name === sign).flatMap(([, text]) => text.split("\n")).filter(Boolean)
        .forEach((id) => addExtra(sign, { id }));
    }
    pairs.filter(([name]) => name === "where").flatMap(([, text]) => text.split("\n")).forEach(addFilter);
    const numbers = (extras.children.length ? "" : values.box || "").split(",").map(Number);
    setBox(numbers.length === 4 && numbers.every(Number.isFinite) ? numbers : null);
  }

  // Photos of a saved search.
  async function showSaved(saved, parameters) {
    const read = async (number) => {
      const response = await fetch(`${delgRoot}/searches/${encodeURIComponent(saved.id)}/original?number=${number}`);
      return new File([await response.blob()], number ? saved.further[number - 1].name : saved.name);
    };
    if (saved.indexed) await showIndexed(saved.indexed);
    else setFile(await read(0));
    for (const [i, { sign }] of saved.further.entries()) addExtra(sign, { file: await read(i + 1) });
    setValues([...parameters]);
    searchAgain();
  }

  async function showIndexed(id) {
    const address = `${delgRoot}/api/images/${encodeURIComponent(id)}`, response = await fetch(address);
    const image = response.ok ? await response.json() : {};
    byId.value = id;
    if (input) input.value = "";
    show(`${address}/photo`, id, image.width ? [image.width, image.height] : null);
  }

  function searchAgain() {
    restored = true;
    form.requestSubmit();
  }

  async function restore() {
    const parameters = new URLSearchParams(location.search), key = delgHistory.keyOf(location.hash);
    if (key && input) {
      const query = await delgHistory.get(key);
      if (!query) {
        showError("This browser no longer has the photo of this query. Save a search to keep it and to share it.");
        return;
      }
      if (query.id) await showIndexed(query.id);
      else setFile(query.file instanceof File ? query.file : new File([query.file], query.name));
      for (const sign of ["plus", "minus"]) (query[sign] || []).forEach((file) => addExtra(sign, { file }));
      setValues(query.values);
      searchAgain();
    } else if (byId.dataset.saved) {
      await showSaved(JSON.parse(byId.dataset.saved), parameters);
    } else if (byId.value && byId.value === parameters.get("id")) {
      const { photo: url, width, height } = byId.dataset;
      show(url, byId.value, width ? [Number(width), Number(height)] : null);
      setValues([...parameters]);
      searchAgain();
    } else if (parameters.get("saved")) {
      showError("There is no such saved search; it may have expired.");
    }
  }
  // Another query of the history; "#main" is none.
  window.addEventListener("popstate", () => {
    const isPlace = location.hash && !delgHistory.keyOf(location.hash);
    if (!isPlace && here() !== shownAddress) location.reload();
  });
  window.addEventListener("pagehide", () => history.replaceState({ scroll: window.scrollY }, ""));

  // Shared with the match view.
  window.delgQuery = {
    form,
    url: (number) => number ? extraImages()[number - 1]?.dataset.photo || "" : photo.src,
    // Where the size of a further photo is said, if it is one of the index.
    about: (number) => extraImages()[number - 1]?.dataset.about || "",
    shown: () => !stage.hidden,
  };
  // After htmx, which takes over the form.
  document.addEventListener("DOMContentLoaded", restore);
})();
