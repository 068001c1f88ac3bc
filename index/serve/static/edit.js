// Editing on a server that may be written: labels and metadata, removing with undo, adding by drop.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const note = get("edit-note"), form = get("edit-form");

  async function send(url, method, body) {
    const response = await fetch(url, { method, body });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }
  async function attempt(action, done) {
    try {
      await action();
      note.textContent = done;
      return true;
    } catch (error) {
      note.textContent = error.message;
      return false;
    }
  }

  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    // An entry that is emptied is deleted.
    const metadata = Object.fromEntries([...form.querySelectorAll("[data-key]")]
      .map((input) => [input.dataset.key, input.value || null]));
    const key = get("new-key").value.trim();
    if (key) metadata[key] = get("new-value").value;
    const body = new FormData();
    body.append("label", form.elements.label.value);
    body.append("metadata", JSON.stringify(metadata));
    if (await attempt(() => send(form.dataset.url, "PATCH", body), "Saved.")) location.reload();
  });
  get("remove")?.addEventListener("click", async () => {
    const done = await attempt(() => send(form.dataset.url, "DELETE"), "Removed; it can be restored until the index is compacted.");
    get("edit").hidden = done;
    get("undo").hidden = !done;
    if (done) get("undo").focus();
  });
  get("undo")?.addEventListener("click", async () => {
    const done = await attempt(() => send(`${form.dataset.url}/restore`, "POST"), "Restored.");
    get("edit").hidden = !done;
    get("undo").hidden = done;
  });

  async function add(files) {
    let added = 0;
    for (const [number, file] of [...files].entries()) {
      note.textContent = `Adding ${number + 1} of ${files.length} …`;
      const body = new FormData();
      body.append("image", file);
      if (get("add-label").value.trim()) body.append("label", get("add-label").value.trim());
      const line = document.createElement("li"), name = document.createElement("bdi");
      try {
        const image = await send(`${delgRoot}/api/images`, "POST", body);
        const link = document.createElement("a");
        link.href = `${delgRoot}/image?id=${encodeURIComponent(image.id)}`;
        link.append(name);
        line.append(link);
        added += 1;
      } catch (error) {
        line.append(name, `: ${error.message}`);
      }
      name.textContent = file.name;
      get("add-list").append(line);
    }
    note.textContent = `${added} of ${files.length} added.`;
  }
  get("add")?.addEventListener("change", (event) => add(event.target.files));
  const place = get("add-drop");
  place?.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place?.addEventListener("dragleave", () => place.classList.remove("over"));
  place?.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    add(event.dataTransfer.files);
  });
})();
