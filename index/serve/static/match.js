// The match view: query and hit with their matched points joined; zoom, pan, and optional outliers.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const dialog = get("match"), view = get("match-view"), note = get("match-note");
  const palette = view.dataset.palette.split(" ");
  const namespace = "http://www.w3.org/2000/svg";
  const side = 1000, gap = 24;
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

  function open(number) {
    current = number;
    hit = JSON.parse(cards[current].dataset.match);
    hit.url = cards[current].dataset.photo;
    hit.outliers = null;
    const answer = cards[current].closest(".answer");
    query = {
      width: Number(answer.dataset.width),
      height: Number(answer.dataset.height),
      box: JSON.parse(answer.dataset.box),
      url: window.delgQuery?.shown() ? window.delgQuery.url() : "",
    };
    get("match-title").textContent = `No. ${hit.rank}: ${hit.id}`;
    get("match-previous").disabled = current === 0;
    get("match-next").disabled = current === cards.length - 1;
    if (!dialog.open) dialog.showModal();
    // Hover effects start when the pointer moves.
    view.classList.remove("pointed");
    render();
    fit();
    view.focus({ preventScroll: true });
    if (get("show-outliers").checked) fetchOutliers();
  }

  // Side by side at equal height in wide windows, otherwise stacked at equal width.
  function layOut() {
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
  const ends = ([a, b, c, d]) => [at(frames[0], a, b), at(frames[1], c, d)];

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

  function render() {
    layOut();
    const parts = [];
    parts.push(photoImage(frames[0], query.url), photoImage(frames[1], hit.url));
    if (query.box) {
      const [x, y, width, height] = query.box.map((value) => value * frames[0].scale);
      for (const name of ["frame-dark", "frame-light"]) {
        parts.push(make("rect", { class: name, x: frames[0].x + x, y: frames[0].y + y, width, height }));
      }
    }
    // Colours alternate from top to bottom, so that neighbouring lines differ.
    const order = hit.points.map((_, i) => i).sort((a, b) => hit.points[a][1] - hit.points[b][1] || hit.points[a][0] - hit.points[b][0]);
    const matches = make("g", { class: "matches" },
      ...order.map((i, position) => line(hit.points[i], palette[position % palette.length])));
    const outliers = make("g", { class: "outliers" }, ...(hit.outliers || []).map(outlierLine));
    view.replaceChildren(...parts, outliers, matches);
    // Hundreds of opaque lines would hide the photos.
    matches.classList.toggle("many", hit.points.length > 100);
    matches.classList.toggle("lineless", !get("show-lines").checked);
    outliers.toggleAttribute("hidden", !get("show-outliers").checked);
    describe();
  }

  function describe() {
    const count = hit.points.length;
    const parts = [count ? `${count} matching ${count === 1 ? "point" : "points"}, ${hit.verified ? "verified" : "not verified"}, probability ${hit.percent}` : "No matching points"];
    if (get("show-outliers").checked && hit.outliers) {
      parts.push(`${hit.outliers.length} ${hit.outliers.length === 1 ? "outlier" : "outliers"}`);
    }
    if (!query.url) parts.push("the query's photo cannot be shown");
    if (hit.missing) parts.push("the hit's photo cannot be shown");
    note.textContent = parts.join("; ") + ".";
    view.setAttribute("aria-label", `Query and ${hit.id}: ${parts.join("; ")}`);
  }

  async function fetchOutliers() {
    if (hit.outliers || !window.delgQuery) return;
    const shown = hit;
    note.textContent = "Finding outliers …";
    const data = new FormData(window.delgQuery.form);
    // The part of these results, even if another has been typed since.
    data.set("box", query.box ? query.box.join(",") : "");
    data.append("hit", shown.id);
    data.append("transform", JSON.stringify(shown.transform));
    try {
      const response = await fetch("/outliers", { method: "POST", body: data });
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
  dialog.addEventListener("close", () => cards[current]?.focus());

  const applyView = () => view.setAttribute("viewBox", viewBox.map((value) => value.toFixed(2)).join(" "));
  function fit() {
    // A margin, and the aspect of the window, so that panning is even in both directions.
    const area = view.getBoundingClientRect(), margin = 20;
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
