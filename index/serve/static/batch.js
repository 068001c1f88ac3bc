// Many photos, each a query of its own: sent at once, answered one after the other, shown as a table.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const place = get("batch-drop");
  if (!place) return;
  let id = "", files = [], shown = 0, waiting = 0;
  const words = { sure: "sure", probably: "probably", none: "not in this collection" };

  async function ask(url, options) {
    const response = await fetch(url, options);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }

  // Paths of the files of folders that were dropped.
  const paths = new WeakMap();
  async function filesOf(entry) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      paths.set(file, entry.fullPath.replace(/^\//, ""));
      return [file];
    }
    const reader = entry.createReader(), found = [];
    // Each call gives some of them, until there are no more.
    for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;) {
      for (const each of some) found.push(...await filesOf(each));
    }
    return found;
  }
  async function dropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
    if (!entries.some((entry) => entry?.isDirectory)) return transfer.files;
    return (await Promise.all(entries.filter(Boolean).map(filesOf))).flat();
  }

  async function start(list) {
    files = [...list].filter((file) => file.type.startsWith("image/") || /\.(hei[cf]|tiff?)$/i.test(file.name));
    get("batch-error").textContent = "";
    if (!files.length) {
      get("batch-error").textContent = "There is no photo among these files.";
      return;
    }
    if (files.length > Number(place.dataset.limit)) {
      get("batch-error").textContent = `These are ${files.length} photos; this server takes up to ${place.dataset.limit} at once.`;
      return;
    }
    const body = new FormData();
    for (const file of files) body.append("image", file, paths.get(file) || file.webkitRelativePath || file.name);
    get("batch").hidden = false;
    get("batch-rows").replaceChildren();
    get("batch-status").textContent = `Sending ${files.length} photos …`;
    try {
      const batch = await ask(`${delgRoot}/api/queries`, { method: "POST", body });
      history.replaceState(null, "", `#${batch.id}`);
      follow(batch.id);
    } catch (error) {
      get("batch-error").textContent = error.message;
    }
  }

  function follow(batchId) {
    id = batchId;
    shown = 0;
    get("batch").hidden = false;
    get("batch-csv").href = `${delgRoot}/api/queries/${encodeURIComponent(id)}.csv`;
    poll();
  }

  async function poll() {
    clearTimeout(waiting);
    try {
      const batch = await ask(`${delgRoot}/api/queries/${encodeURIComponent(id)}`);
      for (const result of batch.results.slice(shown)) get("batch-rows").append(row(result, files[shown++]));
      get("batch-progress").value = batch.done / Math.max(1, batch.total);
      get("batch-status").textContent = `${batch.done} of ${batch.total} answered${batch.failed ? `, ${batch.failed} failed` : ""}`;
      get("batch-stop").hidden = batch.status !== "working";
      if (batch.status === "working") waiting = setTimeout(poll, 500);
    } catch (error) {
      get("batch-error").textContent = error.message;
    }
  }

  const cell = (...children) => {
    const element = document.createElement("td");
    element.append(...children);
    return element;
  };
  function text(value) {
    const element = document.createElement("bdi");
    element.textContent = value;
    return element;
  }
  function picture(url) {
    const image = Object.assign(document.createElement("img"), { src: url, alt: "", loading: "lazy", className: "thumb" });
    const frame = document.createElement("span");
    frame.className = "mat";
    frame.append(image);
    return frame;
  }
  function row(result, file) {
    const line = document.createElement("tr"), name = text(result.query);
    const preview = file ? [picture(URL.createObjectURL(file))] : [];
    if (result.error) {
      line.append(cell(...preview, name), Object.assign(cell(text(result.error)), { colSpan: 4 }));
      return line;
    }
    const { answer, hits } = result, best = hits[0];
    const link = document.createElement("a");
    if (best) {
      link.href = `${delgRoot}/image?id=${encodeURIComponent(best.id)}`;
      link.append(picture(`${delgRoot}/api/images/${encodeURIComponent(best.id)}/thumb`), text(best.id));
    }
    const known = Object.entries(answer.metadata).filter(([, value]) => value && !/^https?:/.test(value)).slice(0, 3);
    const lines = known.map(([key, value]) => {
      const line = Object.assign(document.createElement("p"), { className: "quiet small-text" });
      line.append(text(`${key}: ${value}`));
      return line;
    });
    const number = cell(`${(100 * answer.probability).toFixed(1)}%`);
    number.className = "number";
    line.append(cell(...preview, name), cell(text(answer.label || answer.id || "–"), ...lines), cell(words[answer.verdict]), number, cell(link));
    return line;
  }

  get("batch-stop").addEventListener("click", async () => {
    clearTimeout(waiting);
    try {
      await ask(`${delgRoot}/api/queries/${encodeURIComponent(id)}`, { method: "DELETE" });
      get("batch-status").textContent += ", stopped";
      get("batch-stop").hidden = get("batch-csv").hidden = true;
    } catch (error) {
      get("batch-error").textContent = error.message;
    }
  });
  for (const input of [get("photos"), get("folder")]) input.addEventListener("change", () => start(input.files));
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    dropped(event.dataTransfer).then(start, (error) => { get("batch-error").textContent = error.message; });
  });
  if (location.hash.length > 1) follow(location.hash.slice(1));
})();
