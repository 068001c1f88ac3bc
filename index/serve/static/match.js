// The match view: query and hit with their matched points joined; zoom, move, outliers on a switch.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const dialog = get("match"), view = get("match-view"), note = get("match-note");
  const palette = view.dataset.palette.split(" ");
  const space = "http://www.w3.org/2000/svg";
  const side = 1000, gap = 24;
  let cards = [], now = 0, whole = [0, 0, 1, 1], seen = [...whole], frames = null, hit = null, asked = null;

  const make = (name, values, ...children) => {
    const one = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
    one.append(...children);
    return one;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.open");
    if (!button) return;
    cards = [...document.querySelectorAll("#found button.open")];
    open(cards.indexOf(button));
  });

  function open(number) {
    now = number;
    hit = JSON.parse(cards[now].dataset.match);
    hit.url = cards[now].dataset.photo;
    hit.outliers = null;
    const answer = cards[now].closest(".answer");
    asked = {
      width: Number(answer.dataset.width),
      height: Number(answer.dataset.height),
      box: JSON.parse(answer.dataset.box),
      url: window.delgQuery?.shown() ? window.delgQuery.url() : "",
    };
    get("match-title").textContent = `No. ${hit.rank}: ${hit.id}`;
    get("match-previous").disabled = now === 0;
    get("match-next").disabled = now === cards.length - 1;
    if (!dialog.open) dialog.showModal();
    // Until the pointer moves, it points at nothing.
    view.classList.remove("pointed");
    draw();
    fit();
    view.focus({ preventScroll: true });
    if (get("show-outliers").checked) fetchOutliers();
  }

  // Side by side of one height, or one above the other of one width, as the window is.
  function layOut() {
    const area = view.getBoundingClientRect();
    const wide = area.width > area.height;
    const place = (photo, x, y) => {
      const scale = wide ? side / photo.height : side / photo.width;
      return { x, y, scale, width: photo.width * scale, height: photo.height * scale };
    };
    const first = place(asked, 0, 0);
    const second = wide ? place(hit, first.width + gap, 0) : place(hit, 0, first.height + gap);
    frames = [first, second];
    whole = wide ? [0, 0, second.x + second.width, side] : [0, 0, side, second.y + second.height];
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

  function strayed(points) {
    const [[x1, y1], [x2, y2]] = ends(points);
    const d = `M${x1} ${y1}L${x2} ${y2}`;
    return make("g", {}, make("path", { class: "under", d }), make("path", { class: "line", d }));
  }

  function picture(frame, url) {
    const { x, y, width, height } = frame;
    const image = make("image", { x, y, width, height, preserveAspectRatio: "none", href: url });
    const of = hit;
    image.addEventListener("error", () => {
      if (of.url === url) of.missing = true;
      if (of === hit) tell();
    });
    return make("g", {}, make("rect", { class: "blank", x, y, width, height }), ...(url ? [image] : []));
  }

  function draw() {
    layOut();
    const parts = [];
    parts.push(picture(frames[0], asked.url), picture(frames[1], hit.url));
    if (asked.box) {
      const [x, y, width, height] = asked.box.map((value) => value * frames[0].scale);
      for (const name of ["frame-dark", "frame-light"]) {
        parts.push(make("rect", { class: name, x: frames[0].x + x, y: frames[0].y + y, width, height }));
      }
    }
    // Neighbours differ in colour: the palette is dealt out from top to bottom.
    const order = hit.points.map((_, i) => i).sort((a, b) => hit.points[a][1] - hit.points[b][1] || hit.points[a][0] - hit.points[b][0]);
    const matches = make("g", { class: "matches" },
      ...order.map((i, turn) => line(hit.points[i], palette[turn % palette.length])));
    const outliers = make("g", { class: "outliers" }, ...(hit.outliers || []).map(strayed));
    view.replaceChildren(...parts, outliers, matches);
    // Hundreds of lines would hide what they join.
    matches.classList.toggle("many", hit.points.length > 100);
    matches.classList.toggle("lineless", !get("show-lines").checked);
    outliers.toggleAttribute("hidden", !get("show-outliers").checked);
    tell();
  }

  function tell() {
    const count = hit.points.length;
    const said = [count ? `${count} matching ${count === 1 ? "point" : "points"}, ${hit.verified ? "verified" : "not enough for proof"}` : "No points agree"];
    if (get("show-outliers").checked && hit.outliers) {
      said.push(`${hit.outliers.length} ${hit.outliers.length === 1 ? "outlier" : "outliers"}`);
    }
    if (!asked.url) said.push("the query's photo cannot be shown");
    if (hit.missing) said.push("the hit's photo cannot be shown");
    note.textContent = said.join("; ") + ".";
    view.setAttribute("aria-label", `Query and ${hit.id}: ${said.join("; ")}`);
  }

  async function fetchOutliers() {
    if (hit.outliers || !window.delgQuery) return;
    const of = hit;
    note.textContent = "Looking for outliers …";
    const data = new FormData(window.delgQuery.form);
    // The part that these hits were found by, whatever has been typed since.
    data.set("box", asked.box ? asked.box.join(",") : "");
    data.append("hit", of.id);
    data.append("transform", JSON.stringify(of.transform));
    try {
      const answer = await fetch("/outliers", { method: "POST", body: data });
      const values = await answer.json();
      if (!answer.ok) throw new Error(values.error);
      of.outliers = values;
      if (of === hit) draw();
    } catch (error) {
      if (of === hit) note.textContent = `The outliers cannot be shown: ${error.message}`;
    }
  }

  get("show-lines").addEventListener("change", draw);
  get("show-outliers").addEventListener("change", () => {
    draw();
    if (get("show-outliers").checked) fetchOutliers();
  });
  get("match-close").addEventListener("click", () => dialog.close());
  get("match-previous").addEventListener("click", () => open(now - 1));
  get("match-next").addEventListener("click", () => open(now + 1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => cards[now]?.focus());

  // What is seen: [x, y, width, height] of the drawing.
  const look = () => view.setAttribute("viewBox", seen.map((value) => value.toFixed(2)).join(" "));
  function fit() {
    // A little air around, and the shape of the window, so that moving is even in both directions.
    const area = view.getBoundingClientRect(), air = 20;
    const scale = Math.max((whole[2] + 2 * air) / area.width, (whole[3] + 2 * air) / area.height);
    const [width, height] = [area.width * scale, area.height * scale];
    seen = [(whole[2] - width) / 2, (whole[3] - height) / 2, width, height];
    look();
  }
  function zoom(factor, x = 0.5, y = 0.5) {
    const most = Math.max(whole[2], whole[3]) * 2, least = side / 40;
    const width = Math.min(most, Math.max(least, seen[2] / factor));
    const height = seen[3] * width / seen[2];
    seen = [seen[0] + (seen[2] - width) * x, seen[1] + (seen[3] - height) * y, width, height];
    look();
  }
  function move(x, y) {
    seen[0] += x * seen[2];
    seen[1] += y * seen[3];
    look();
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
      draw();
      fit();
    }
  });
})();
