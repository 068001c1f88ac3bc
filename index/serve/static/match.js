// The match view: query and hit with their matched points joined, or one laid over the other by the
// transform between them; zoom, pan, optional outliers, and the view as a PNG.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const dialog = get("match"), view = get("match-view"), note = get("match-note");
  const palette = view.dataset.palette.split(" ");
  const namespace = "http://www.w3.org/2000/svg";
  const side = 1000, gap = 24;
  const results = get("results");
  let cards = [], current = 0, frames = null, hit = null, query = null;
  // Boxes [x, y, width, height]: of the whole drawing, and of the part in view.
  let bounds = [0, 0, 1, 1], viewBox = [...bounds];

  const make = (name, values, ...children) => {
    const element = document.createElementNS(namespace, name);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.open");
    if (!button) return;
    cards = [...document.querySelectorAll("#results button.open")];
    open(cards.indexOf(button));
  });

  // The size of a further photo of the query, in pixels of its original.
  async function measure(photo, about) {
    try {
      if (about) {
        const { width, height } = await (await fetch(about)).json();
        Object.assign(photo, { width, height });
      } else {
        const image = new Image();
        image.src = photo.url;
        await image.decode();
        Object.assign(photo, { width: image.naturalWidth, height: image.naturalHeight });
      }
    } catch {
      photo.url = "";
    }
  }

  async function open(number) {
    current = number;
    hit = JSON.parse(cards[current].dataset.match);
    hit.url = cards[current].dataset.photo;
    hit.outliers = null;
    const answer = cards[current].closest(".answer");
    query = {
      width: Number(answer.dataset.width),
      height: Number(answer.dataset.height),
      box: JSON.parse(answer.dataset.box),
      url: window.delgQuery ? (window.delgQuery.shown() ? window.delgQuery.url(hit.photo) : "") : results.dataset.queryPhoto || "",
    };
    // A query of several photos: its other photos have sizes of their own.
    if (hit.photo) {
      let about = window.delgQuery?.about(hit.photo);
      if (!window.delgQuery) ({ about, ...query } = { ...query, ...JSON.parse(results.dataset.plus || "[]")[hit.photo - 1] });
      if (window.delgQuery || about) await measure(query, about);
    }
    get("match-title").textContent = `No. ${hit.rank}: ${hit.id}`;
    get("match-previous").disabled = current === 0;
    get("match-next").disabled = current === cards.length - 1;
    if (!dialog.open) dialog.showModal();
    // Without a transform there is nothing to lay one over the other by.
    for (const input of document.querySelectorAll("#modes input[type=radio]")) {
      input.disabled = input.value !== "side" && !(hit.transform && hit.points.length);
      if (input.disabled && input.checked) document.querySelector("#modes input").checked = true;
    }
    setMode();
    // Hover effects start when the pointer moves.
    view.classList.remove("pointed");
    render();
    fit();
    view.focus({ preventScroll: true });
    if (get("show-outliers").checked) fetchOutliers();
  }

  // Side by side at equal height in wide windows, otherwise stacked at equal width.
  function layOut() {
    if (mode() !== "side") {
      const frame = { x: 0, y: 0, scale: 1, width: hit.width, height: hit.height };
      frames = [frame, frame];
      bounds = [0, 0, hit.width, hit.height];
      return;
    }
    const area = view.getBoundingClientRect();
    const wide = area.width > area.height;
    const place = (photo, x, y) => {
      const scale = wide ? side / photo.height : side / photo.width;
      return { x, y, scale, width: photo.width * scale, height: photo.height * scale };
    };
    const first = place(query, 0, 0);
    const second = wide ? place(hit, first.width + gap, 0) : place(hit, 0, first.height + gap);
    frames = [first, second];
    bounds = wide ? [0, 0, second.x + second.width, side] : [0, 0, side, second.y + second.height];
  }

  // Points count from the middle of a pixel, drawings from its corner.
  const at = (frame, x, y) => [frame.x + (x + 0.5) * frame.scale, frame.y + (y + 0.5) * frame.scale]
    .map((value) => value.toFixed(1));
  // In an overlay, a line leads from where the transform puts a point to where it was matched.
  const ends = ([a, b, c, d]) => [at(frames[0], ...(mode() === "side" ? [a, b] : mapped(a, b))), at(frames[1], c, d)];

  const mode = () => document.querySelector("#modes input:checked").value;
  function mapped(x, y) {
    const [p, q, w] = hit.transform.map((row) => row[0] * x + row[1] * y + row[2]);
    return [p / w, q / w];
  }
  // The transform as an affine one, exact where it is; otherwise as it is in the middle of the points.
  function affine() {
    const mean = [0, 1].map((i) => hit.points.reduce((sum, point) => sum + point[i], 0) / hit.points.length);
    const [x, y] = mapped(...mean), step = 1;
    const [xs, ys] = [mapped(mean[0] + step, mean[1]), mapped(mean[0], mean[1] + step)];
    const [a, b, c, d] = [xs[0] - x, xs[1] - y, ys[0] - x, ys[1] - y];
    const [u, v] = [mean[0] + 0.5, mean[1] + 0.5];
    return [a, b, c, d, x + 0.5 - a * u - c * v, y + 0.5 - b * u - d * v];
  }

  function line(points, colour) {
    const [[x1, y1], [x2, y2]] = ends(points);
    const stroke = `M${x1} ${y1}L${x2} ${y2}`, dots = `M${x1} ${y1}h0M${x2} ${y2}h0`;
    return make("g", { stroke: colour },
      ...[["reach", stroke], ["line", stroke], ["rim", dots], ["dots", dots]]
        .map(([name, d]) => make("path", { class: name, d })));
  }

  function outlierLine(points) {
    const [[x1, y1], [x2, y2]] = ends(points);
    const d = `M${x1} ${y1}L${x2} ${y2}`;
    return make("g", {}, make("path", { class: "under", d }), make("path", { class: "line", d }));
  }

  function photoImage(frame, url) {
    const { x, y, width, height } = frame;
    const image = make("image", { x, y, width, height, preserveAspectRatio: "none", href: url });
    const shown = hit;
    image.addEventListener("error", () => {
      if (shown.url === url) shown.missing = true;
      if (shown === hit) describe();
    });
    return make("g", {}, make("rect", { class: "blank", x, y, width, height }), ...(url ? [image] : []));
  }

  // The outline of a part of a photo, in its pixels, if there is one.
  function outline(frame, box) {
    if (!box) return [];
    const [x, y, width, height] = box.map((value) => value * frame.scale);
    return ["frame-dark", "frame-light"].map((name) =>
      make("rect", { class: name, x: frame.x + x, y: frame.y + y, width, height }));
  }

  function render() {
    layOut();
    const parts = [];
    const isSide = mode() === "side";
    if (isSide) {
      parts.push(photoImage(frames[0], query.url), photoImage(frames[1], hit.url));
    } else {
      const { width, height } = query;
      parts.push(photoImage(frames[1], hit.url));
      if (query.url) parts.push(make("image", {
        id: "overlaid", width, height, preserveAspectRatio: "none", href: query.url,
        transform: `matrix(${affine().join(" ")})`, opacity: opacity(),
      }));
    }
    if (isSide) parts.push(...outline(frames[0], query.box));
    parts.push(...outline(frames[1], hit.region));
    // Colours alternate from top to bottom, so that neighbouring lines differ.
    const order = hit.points.map((_, i) => i).sort((a, b) => hit.points[a][1] - hit.points[b][1] || hit.points[a][0] - hit.points[b][0]);
    const matches = make("g", { class: "matches" },
      ...order.map((i, position) => line(hit.points[i], palette[position % palette.length])));
    const outliers = make("g", { class: "outliers" }, ...(hit.outliers || []).map(outlierLine));
    view.replaceChildren(...parts, outliers, matches);
    // Hundreds of opaque lines would hide the photos.
    matches.classList.toggle("many", hit.points.length > 100);
    matches.classList.toggle("lineless", !get("show-lines").checked);
    outliers.toggleAttribute("hidden", !get("show-outliers").checked || !isSide);
    describe();
  }

  const opacity = () => mode() === "blink" ? 1 : get("opacity").value / 100;
  let blinking = 0;
  function setMode() {
    clearInterval(blinking);
    get("opacity-label").hidden = mode() !== "overlay";
    get("show-outliers").disabled = mode() !== "side" || !window.delgQuery || hit.photo > 0;
    if (mode() === "blink") {
      const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 2000 : 700;
      blinking = setInterval(() => get("overlaid")?.toggleAttribute("hidden"), pause);
    }
  }
  get("modes").addEventListener("change", (event) => {
    if (event.target.name !== "mode") return;
    setMode();
    render();
    fit();
  });
  get("opacity").addEventListener("input", () => get("overlaid")?.setAttribute("opacity", opacity()));

  async function paint() {
    const scale = Math.min(2, 2400 / Math.max(bounds[2], bounds[3]));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [bounds[2], bounds[3]].map((length) => Math.round(length * scale));
    const context = canvas.getContext("2d"), isSide = mode() === "side";
    context.scale(scale, scale);
    const load = async (url) => {
      const image = new Image();
      image.src = url;
      await image.decode();
      return image;
    };
    const place = (image, { x, y, width, height }) => context.drawImage(image, x, y, width, height);
    context.fillStyle = getComputedStyle(view).backgroundColor;
    context.fillRect(0, 0, bounds[2], bounds[3]);
    if (!hit.missing) place(await load(hit.url), frames[1]);
    if (query.url && isSide) place(await load(query.url), frames[0]);
    if (query.url && !isSide) {
      const image = await load(query.url);
      context.save();
      context.globalAlpha = mode() === "overlay" ? opacity() : 0.5;
      context.transform(...affine());
      context.drawImage(image, 0, 0, query.width, query.height);
      context.restore();
    }
    for (const rect of view.querySelectorAll("rect.frame-dark, rect.frame-light")) {
      const { stroke, strokeWidth } = getComputedStyle(rect);
      Object.assign(context, { strokeStyle: stroke, lineWidth: parseFloat(strokeWidth) / scale });
      context.strokeRect(...["x", "y", "width", "height"].map((name) => Number(rect.getAttribute(name))));
    }
    context.lineWidth = 1.5 / scale;
    for (const group of view.querySelectorAll(".matches g")) {
      context.strokeStyle = context.fillStyle = group.getAttribute("stroke");
      const [x1, y1, x2, y2] = group.querySelector(".reach").getAttribute("d").match(/-?[\d.]+/g).map(Number);
      if (get("show-lines").checked) context.stroke(new Path2D(`M${x1} ${y1}L${x2} ${y2}`));
      for (const [x, y] of [[x1, y1], [x2, y2]]) {
        context.beginPath();
        context.arc(x, y, 2.5 / scale, 0, 7);
        context.fill();
      }
    }
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }
  get("match-png").addEventListener("click", async () => {
    const name = hit.id.split("/").pop().replace(/\.\w+$/, "") || "photo";
    try {
      const file = new File([await paint()], `match ${name}.png`, { type: "image/png" });
      const onPhone = matchMedia("(pointer: coarse)").matches;
      if (onPhone && navigator.canShare?.({ files: [file] })) {
        await navigator.share({ files: [file] });
        return;
      }
      const anchor = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: file.name });
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
    } catch (error) {
      if (error.name !== "AbortError") note.textContent = `The picture cannot be made: ${error.message}`;
    }
  });

  function describe() {
    const count = hit.points.length;
    const parts = [count ? `${count} matching ${count === 1 ? "point" : "points"}, ${hit.verified ? "verified" : "not verified"}, probability ${hit.percent}` : "No matching points"];
    if (get("show-outliers").checked && hit.outliers && mode() === "side") {
      parts.push(`${hit.outliers.length} ${hit.outliers.length === 1 ? "outlier" : "outliers"}`);
    }
    if (hit.region) parts.push(`the stored part that ${hit.verified ? "matches" : "is most similar"} is outlined`);
    if (!query.url) parts.push("the query's photo cannot be shown");
    if (hit.missing) parts.push("the hit's photo cannot be shown");
    note.textContent = parts.join("; ") + ".";
    view.setAttribute("aria-label", `Query and ${hit.id}: ${parts.join("; ")}`);
  }

  async function fetchOutliers() {
    if (hit.outliers || !window.delgQuery || hit.photo) return;
    const shown = hit;
    note.textContent = "Finding outliers …";
    const data = new FormData(window.delgQuery.form);
    // The part of these results, even if another has been typed since.
    data.set("box", query.box ? query.box.join(",") : "");
    // It is about the first photo alone.
    const [first] = data.getAll("image");
    for (const name of ["image", "plus", "minus"]) data.delete(name);
    if (first?.size) data.set("image", first);
    data.append("hit", shown.id);
    data.append("transform", JSON.stringify(shown.transform));
    try {
      const response = await fetch(`${delgRoot}/outliers`, { method: "POST", body: data });
      const values = await response.json();
      if (!response.ok) throw new Error(values.error);
      shown.outliers = values;
      if (shown === hit) render();
    } catch (error) {
      if (shown === hit) note.textContent = `The outliers cannot be shown: ${error.message}`;
    }
  }

  get("show-lines").addEventListener("change", render);
  get("show-outliers").addEventListener("change", () => {
    render();
    if (get("show-outliers").checked) fetchOutliers();
  });
  get("match-close").addEventListener("click", () => dialog.close());
  get("match-previous").addEventListener("click", () => open(current - 1));
  get("match-next").addEventListener("click", () => open(current + 1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    clearInterval(blinking);
    cards[current]?.focus();
  });

  const applyView = () => view.setAttribute("viewBox", viewBox.map((value) => value.toFixed(2)).join(" "));
  function fit() {
    // A margin, and the aspect of the window, so that panning is even in both directions.
    const area = view.getBoundingClientRect(), margin = 20;
    // Closed before it was shown.
    if (!area.width || !area.height) return;
    const scale = Math.max((bounds[2] + 2 * margin) / area.width, (bounds[3] + 2 * margin) / area.height);
    const [width, height] = [area.width * scale, area.height * scale];
    viewBox = [(bounds[2] - width) / 2, (bounds[3] - height) / 2, width, height];
    applyView();
  }
  function zoom(factor, x = 0.5, y = 0.5) {
    const most = Math.max(bounds[2], bounds[3]) * 2, least = side / 40;
    const width = Math.min(most, Math.max(least, viewBox[2] / factor));
    const height = viewBox[3] * width / viewBox[2];
    viewBox = [viewBox[0] + (viewBox[2] - width) * x, viewBox[1] + (viewBox[3] - height) * y, width, height];
    applyView();
  }
  function move(x, y) {
    viewBox[0] += x * viewBox[2];
    viewBox[1] += y * viewBox[3];
    applyView();
  }
  get("zoom-in").addEventListener("click", () => zoom(1.4));
  get("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
  get("zoom-fit").addEventListener("click", fit);
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    const area = view.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
  }, { passive: false });
  view.addEventListener("keydown", (event) => {
    const keys = {
      "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "0": fit,
      ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0),
      ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  const pointers = new Map();
  view.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    view.classList.toggle("pointed", event.pointerType !== "touch");
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const area = view.getBoundingClientRect();
    const next = [event.clientX, event.clientY];
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    if (others.length) {
      const spread = (point) => Math.hypot(point[0] - others[0][0], point[1] - others[0][1]);
      const middle = [0, 1].map((i) => (next[i] + others[0][i]) / 2);
      zoom(spread(next) / Math.max(1, spread(last)), (middle[0] - area.left) / area.width, (middle[1] - area.top) / area.height);
    }
    const share = others.length ? 2 : 1;
    move((last[0] - next[0]) / area.width / share, (last[1] - next[1]) / area.height / share);
    pointers.set(event.pointerId, next);
  });
  for (const name of ["pointerup", "pointercancel"]) view.addEventListener(name, (event) => pointers.delete(event.pointerId));
  window.addEventListener("resize", () => {
    if (dialog.open) {
      render();
      fit();
    }
  });
})();
