// A map of all photos, on a canvas: zoom, pan, thumbnails where few are in view, lasso.
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const atlas = get("atlas");
  if (!atlas) return;
  const { kind, version, tiles } = atlas.dataset, isWorld = kind === "places";
  const view = get("map-view"), ground = get("map-ground"), canvas = get("map-points"), tip = get("map-tip");
  const context = canvas.getContext("2d"), under = ground.getContext("2d");
  // Points in a square of side 1: x, y, position of the photo, colour.
  let xs = [], ys = [], positions = [], groups = [], land = [];
  let centre = [0.5, 0.5], scale = 500, width = 0, height = 0, ratio = 1;
  let selected = null, buffer = null;
  const colours = ["", ...atlas.dataset.palette.split(" ")];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const packed = (text) => {
    const [r, g, b] = text.match(/^#(..)(..)(..)$/).slice(1).map((part) => parseInt(part, 16));
    return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  };
  const toX = (x) => (x - centre[0]) * scale + width / 2;
  const toY = (y) => (y - centre[1]) * scale + height / 2;

  function resize() {
    ratio = Math.min(2, window.devicePixelRatio || 1);
    [width, height] = [view.clientWidth, view.clientHeight];
    for (const each of [canvas, ground]) {
      each.width = Math.round(width * ratio);
      each.height = Math.round(height * ratio);
    }
    // Nothing is drawn before there is room for it.
    buffer = canvas.width && canvas.height ? context.createImageData(canvas.width, canvas.height) : null;
    draw();
  }

  let asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (!buffer) return;
      if (isWorld) drawGround();
      drawPoints();
    });
  }

  // One pass over all points into a buffer of pixels: a hundred thousand take a few milliseconds.
  function drawPoints() {
    const pixels = new Uint32Array(buffer.data.buffer), w = canvas.width, h = canvas.height;
    pixels.fill(0);
    const plain = packed(css("--quiet")), table = colours.map((text) => text ? packed(text) : plain);
    const chosen = packed(css("--accent"));
    // Few points may be large: 7 pixels for a hundred, 2 for a hundred thousand.
    const least = Math.max(1.5, 10 - 1.7 * Math.log10(Math.max(10, xs.length)));
    const size = Math.max(2, Math.round(ratio * Math.min(7, least + Math.log2(Math.max(1, scale / 500)))));
    const k = scale * ratio, dx = w / 2 - centre[0] * k, dy = h / 2 - centre[1] * k;
    const seen = [];
    let count = 0;
    for (let i = 0; i < xs.length; i++) {
      const x = Math.round(xs[i] * k + dx - size / 2), y = Math.round(ys[i] * k + dy - size / 2);
      if (x < 0 || y < 0 || x + size >= w || y + size >= h) continue;
      count++;
      if (count <= 80) seen.push(i);
      const colour = selected ? (selected.has(i) ? chosen : (plain & 0xffffff | 70 << 24) >>> 0) : table[groups[i]];
      // A loop, as a call of fill() per row of so few pixels takes twice the time.
      for (let start = y * w + x, end = start + size * w; start < end; start += w) {
        for (let at = start; at < start + size; at++) pixels[at] = colour;
      }
    }
    context.putImageData(buffer, 0, 0);
    if (count <= 80 && scale > 700) drawThumbnails(seen);
    get("map-note").textContent = `${count.toLocaleString("en")} in view.`;
  }

  const thumbnails = new Map(), photos = new Map();
  async function photoAt(i) {
    if (!photos.has(i)) {
      photos.set(i, fetch(`${delgRoot}/map/photo?at=${positions[i]}&version=${encodeURIComponent(version)}`)
        .then((response) => response.ok ? response.json() : null).catch(() => null));
    }
    return photos.get(i);
  }
  const thumb = (id) => `${delgRoot}/api/images/${encodeURIComponent(id)}/thumb`;
  function drawThumbnails(points) {
    const side = 64 * ratio;
    for (const i of points) {
      const image = thumbnails.get(i);
      if (image === undefined) {
        thumbnails.set(i, null);
        photoAt(i).then((photo) => {
          if (!photo) return;
          const element = new Image();
          element.onload = () => {
            thumbnails.set(i, element);
            draw();
          };
          element.src = thumb(photo.id);
        });
      } else if (image) {
        const fit = side / Math.max(image.naturalWidth, image.naturalHeight);
        const [w, h] = [image.naturalWidth * fit, image.naturalHeight * fit];
        context.drawImage(image, toX(xs[i]) * ratio - w / 2, toY(ys[i]) * ratio - h / 2, w, h);
      }
    }
  }

  function drawGround() {
    under.setTransform(ratio, 0, 0, ratio, 0, 0);
    under.fillStyle = css("--mat");
    under.fillRect(0, 0, width, height);
    if (tiles) drawTiles();
    else {
      under.beginPath();
      for (const ring of land) {
        for (let i = 0; i < ring.length; i += 2) under[i ? "lineTo" : "moveTo"](toX(ring[i]), toY(ring[i + 1]));
        under.closePath();
      }
      under.fillStyle = css("--paper");
      under.strokeStyle = css("--field");
      under.lineWidth = 0.6;
      under.fill();
      under.stroke();
    }
  }
  const loaded = new Map();
  function drawTiles() {
    const level = Math.max(0, Math.min(18, Math.round(Math.log2(scale / 256)))), count = 2 ** level;
    const first = (at, length) => Math.floor((at - length / 2 / scale) * count);
    const last = (at, length) => Math.floor((at + length / 2 / scale) * count);
    for (let x = first(centre[0], width); x <= last(centre[0], width); x++) {
      for (let y = Math.max(0, first(centre[1], height)); y <= Math.min(count - 1, last(centre[1], height)); y++) {
        if (x < 0 || x >= count) continue;
        const url = tiles.replace("{z}", level).replace("{x}", x).replace("{y}", y);
        let tile = loaded.get(url);
        if (!tile) {
          tile = new Image();
          tile.onload = draw;
          tile.referrerPolicy = "no-referrer";
          tile.src = url;
          loaded.set(url, tile);
        }
        if (tile.complete && tile.naturalWidth) under.drawImage(tile, toX(x / count), toY(y / count), scale / count + 0.5, scale / count + 0.5);
      }
    }
  }

  function fit() {
    let [x0, x1, y0, y1] = [1, 0, 1, 0];
    for (let i = 0; i < xs.length; i++) {
      x0 = Math.min(x0, xs[i]); x1 = Math.max(x1, xs[i]);
      y0 = Math.min(y0, ys[i]); y1 = Math.max(y1, ys[i]);
    }
    centre = [(x0 + x1) / 2, (y0 + y1) / 2];
    scale = 0.92 * Math.min(width / Math.max(x1 - x0, 0.02), height / Math.max(y1 - y0, 0.02));
    draw();
  }
  function zoom(factor, x = width / 2, y = height / 2) {
    const next = Math.min(4e6, Math.max(Math.min(width, height) / 2, scale * factor));
    const at = [(x - width / 2) / scale, (y - height / 2) / scale];
    const moved = [(x - width / 2) / next, (y - height / 2) / next];
    centre = [0, 1].map((i) => centre[i] + at[i] - moved[i]);
    scale = next;
    tip.hidden = true;
    draw();
  }
  function move(x, y) {
    centre = [centre[0] - x / scale, centre[1] - y / scale].map((value) => Math.min(1.2, Math.max(-0.2, value)));
    tip.hidden = true;
    draw();
  }

  get("map-in").addEventListener("click", () => zoom(1.6));
  get("map-out").addEventListener("click", () => zoom(1 / 1.6));
  get("map-fit").addEventListener("click", fit);
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    const area = view.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - area.left, event.clientY - area.top);
  }, { passive: false });
  view.addEventListener("keydown", (event) => {
    const keys = {
      "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), "0": fit,
      ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
      Escape: () => choose(null),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  // Pointers: one moves or draws, two zoom.
  const pointers = new Map(), lasso = get("map-lasso");
  let line = null, travelled = 0;
  lasso.addEventListener("click", () => lasso.setAttribute("aria-pressed", lasso.getAttribute("aria-pressed") !== "true"));
  const at = (event) => {
    const area = view.getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  };
  view.addEventListener("pointerdown", (event) => {
    if (event.button || event.target.closest("a")) return;
    view.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    travelled = 0;
    const draws = (event.shiftKey || lasso.getAttribute("aria-pressed") === "true") && pointers.size === 1;
    line = draws ? [at(event)] : null;
  });
  view.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId), next = at(event);
    if (!last) {
      if (event.pointerType === "mouse") hover(...next);
      return;
    }
    travelled += Math.hypot(next[0] - last[0], next[1] - last[1]);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    pointers.set(event.pointerId, next);
    if (line && !others.length) {
      line.push(next);
      get("map-path").setAttribute("d", "M" + line.map((point) => point.join(" ")).join("L") + "Z");
      return;
    }
    line = null;
    get("map-path").removeAttribute("d");
    if (others.length) {
      const spread = (point) => Math.hypot(point[0] - others[0][0], point[1] - others[0][1]);
      zoom(spread(next) / Math.max(1, spread(last)), (next[0] + others[0][0]) / 2, (next[1] + others[0][1]) / 2);
    } else move(next[0] - last[0], next[1] - last[1]);
  });
  const lift = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    get("map-path").removeAttribute("d");
    if (line && line.length > 3) choose(inside(line));
    else if (travelled < 5) hover(...at(event), true);
    line = null;
  };
  view.addEventListener("pointerup", lift);
  view.addEventListener("pointercancel", (event) => {
    pointers.delete(event.pointerId);
    line = null;
  });

  function inside(polygon) {
    const corners = polygon.map(([x, y]) => [(x - width / 2) / scale + centre[0], (y - height / 2) / scale + centre[1]]);
    const found = [];
    for (let i = 0; i < xs.length; i++) {
      let odd = false;
      for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
        const [xa, ya] = corners[a], [xb, yb] = corners[b];
        if (ya > ys[i] !== yb > ys[i] && xs[i] < (xb - xa) * (ys[i] - ya) / (yb - ya) + xa) odd = !odd;
      }
      if (odd) found.push(i);
    }
    return found;
  }

  function nearest(x, y) {
    let best = -1, least = 12 * 12;
    for (let i = 0; i < xs.length; i++) {
      const distance = (toX(xs[i]) - x) ** 2 + (toY(ys[i]) - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  let waiting = 0;
  function hover(x, y, now = false) {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const i = nearest(x, y), photo = i < 0 ? null : await photoAt(i);
      tip.hidden = !photo;
      if (!photo) return;
      tip.href = `${delgRoot}/image?id=${encodeURIComponent(photo.id)}`;
      tip.querySelector("img").src = thumb(photo.id);
      tip.querySelector("bdi").textContent = photo.label || photo.id;
      tip.setAttribute("aria-label", photo.id);
      // Places are set by script, which the policy allows, and not by style attributes.
      tip.style.left = `${Math.min(toX(xs[i]) + 12, width - 150)}px`;
      tip.style.top = `${Math.min(toY(ys[i]) + 12, height - 150)}px`;
    }, now ? 0 : 80);
  }

  async function send(path, points) {
    const body = new Uint32Array(points.map((i) => positions[i]));
    const response = await fetch(`${path}?version=${encodeURIComponent(version)}`, {
      method: "POST", body, headers: { "content-type": "application/octet-stream", "hx-request": "true" },
    });
    if (!response.ok) throw new Error((await response.text()).replace(/<[^>]*>/g, " ").trim());
    return response;
  }
  async function choose(points) {
    selected = points && points.length ? new Set(points) : null;
    draw();
    const place = get("selection");
    if (!selected) {
      place.replaceChildren();
      return;
    }
    try {
      place.innerHTML = await (await send(`${delgRoot}/map/selection`, points)).text();
      get("selection-csv")?.addEventListener("click", async () => {
        const blob = await (await send(`${delgRoot}/map/selection.csv`, points)).blob();
        const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "selection.csv" });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      });
    } catch (error) {
      place.textContent = error.message;
    }
  }
  get("map-view-select").addEventListener("click", () => choose(inside([[0, 0], [width, 0], [width, height], [0, height]])));

  const mercator = (latitude) => {
    const radians = Math.max(-85.05, Math.min(85.05, latitude)) * Math.PI / 180;
    return 0.5 - Math.log(Math.tan(Math.PI / 4 + radians / 2)) / (2 * Math.PI);
  };
  async function load() {
    const response = await fetch(`${delgRoot}/${kind}/points?version=${encodeURIComponent(version)}`);
    if (!response.ok) {
      get("map-note").textContent = "The map cannot be loaded; load the page again.";
      return;
    }
    const data = await response.arrayBuffer(), count = data.byteLength / 13;
    xs = new Float32Array(data, 0, count);
    ys = new Float32Array(data, 4 * count, count);
    positions = new Uint32Array(data, 8 * count, count);
    groups = new Uint8Array(data, 12 * count, count);
    if (isWorld && !tiles) {
      const rings = await (await fetch(atlas.dataset.land)).json();
      land = rings.map((ring) => ring.map((value, i) => i % 2 ? mercator(value) : value / 360 + 0.5));
    }
    resize();
    fit();
    new ResizeObserver(resize).observe(view);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  load();
})();
