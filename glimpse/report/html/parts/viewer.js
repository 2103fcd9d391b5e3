"use strict";
// Shows a case look by look. Records are described in glimpse/pictures/pages.py.
(() => {
  const section = document.getElementById("case");
  if (!section) return;
  const by = (id) => document.getElementById(id);
  const NAMESPACE = by("drawing").content.querySelector("svg").namespaceURI;
  const jpeg = (data) => `data:image/jpeg;base64,${data}`;
  const UNITS = 1000; // of the longest side of all panels
  let record = null, opened = "", reading = null, step = 0, shownOutput = 0, panels = [];

  function make(name, attributes = {}, parent = null) {
    const node = document.createElementNS(NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (parent) parent.append(node);
    return node;
  }
  function element(name, text = "", className = "") {
    const node = document.createElement(name);
    node.textContent = text;
    if (className) node.className = className;
    return node;
  }
  const signed = (value) => {
    if (value === null) return "n/a";
    const text = Math.abs(value).toFixed(3);
    return Number(text) ? (value < 0 ? "−" : "+") + text : text; // no sign before what is rounded to zero
  };
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  // ------------------------------------------------------------------------------------------ panels
  class Panel {
    constructor(index, unit) {
      const facts = reading.panels[index];
      this.index = index;
      this.facts = facts;
      this.unit = unit; // of the drawing, for one of the image's
      this.size = [facts.width * unit, facts.height * unit];
      this.figure = element("figure", "", "panel");
      this.svg = make("svg", { tabindex: "0", role: "img" }, this.figure);
      this.svg.style.aspectRatio = `${this.size[0]} / ${this.size[1]}`;
      this.caption = element("figcaption", facts.name ? `${facts.name} (${facts.left} on the left)` : "");
      this.scale = element("div", "", "scale");
      this.figure.append(this.caption, this.scale);
      this.pointers = new Map();
      this.listen();
      this.fit();
    }
    fit() { this.look(0, 0, this.size[0]); }
    look(x, y, width) {
      const [across, down] = this.size;
      width = Math.min(across, Math.max(across / 200, width));
      const height = (width * down) / across;
      this.view = [Math.min(Math.max(x, 0), across - width), Math.min(Math.max(y, 0), down - height), width, height];
      this.svg.setAttribute("viewBox", this.view.join(" "));
      this.svg.style.touchAction = width < across ? "none" : "pan-y";
      this.tags();
    }
    zoom(factor, at = null) {
      const [x, y, width, height] = this.view;
      const [ax, ay] = at ?? [x + width / 2, y + height / 2];
      const wanted = Math.min(this.size[0], Math.max(this.size[0] / 200, width / factor));
      const ratio = wanted / width;
      this.look(ax - (ax - x) * ratio, ay - (ay - y) * ratio, wanted);
    }
    pan(across, down) { this.look(this.view[0] + across, this.view[1] + down, this.view[2]); }
    at(event) {
      const matrix = this.svg.getScreenCTM().inverse();
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
      return [point.x, point.y];
    }
    listen() {
      const svg = this.svg;
      svg.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && document.activeElement !== svg) return; // the page scrolls
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 400), this.at(event));
      }, { passive: false });
      svg.addEventListener("dblclick", (event) => this.zoom(2, this.at(event)));
      svg.addEventListener("pointerdown", (event) => {
        this.pointers.set(event.pointerId, event);
        if (event.pointerType === "mouse") svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener("pointermove", (event) => this.moved(event));
      for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
        svg.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
      }
      svg.addEventListener("keydown", (event) => {
        const far = this.view[2] / 8;
        const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
        if (!event.shiftKey || !moves[event.key]) return;
        this.pan(...moves[event.key]);
        event.preventDefault();
        event.stopPropagation();
      });
    }
    moved(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const others = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
      if (others.length === 1) {
        const gap = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
        const middle = { clientX: (event.clientX + others[0].clientX) / 2, clientY: (event.clientY + others[0].clientY) / 2 };
        this.zoom(gap(event) / Math.max(gap(before), 1), this.at(middle));
      } else if (!others.length && (event.pointerType === "mouse" || this.view[2] < this.size[0])) {
        const [from, to] = [this.at(before), this.at(event)];
        this.pan(from[0] - to[0], from[1] - to[1]);
      }
      this.pointers.set(event.pointerId, event);
    }

    box(look) {
      const [x, y, width, height] = look.boxes[this.index];
      return [x * this.size[0], y * this.size[1], width * this.size[0], height * this.size[1]];
    }
    crossed(look, now) { // whether the cut that is shown goes through a look
      const axis = this.facts.through;
      return axis === null || !now || Math.abs(look.place[axis] - now.place[axis]) <= look.reach[axis] + 1e-6;
    }
    draw(looks, heat) {
      const [width, height] = this.size;
      const whole = { width, height, preserveAspectRatio: "none" };
      this.svg.replaceChildren();
      make("image", { ...whole, href: jpeg(reading.overviews[reading.cuts[step]][this.index]) }, this.svg);
      if (heat !== null) this.heat(heat, whole);
      if (by("in-place").checked && this.facts.through === null) {
        for (const look of looks) {
          const [x, y, across, down] = this.box(look);
          const place = { x, y, width: across, height: down, preserveAspectRatio: "none" };
          make("image", { ...place, href: jpeg(look.glimpse[0]) }, this.svg);
        }
      }
      if (by("boxes").checked) this.boxes(looks);
      this.labels = make("g", { "aria-hidden": "true" }, this.svg);
      this.tags();
      const what = this.facts.name ? `${this.facts.name} plane` : "Overview";
      this.svg.setAttribute("aria-label", `${what} of ${record.id} with ${plural(looks.length, "look")}`);
    }
    heat(which, whole) {
      const [rows, columns] = this.facts.grid;
      const window = make("svg", { ...whole, viewBox: `0 ${which * rows} ${columns} ${rows}`, class: "heat" }, this.svg);
      const sheet = { width: columns, height: rows * reading.peaks.length, preserveAspectRatio: "none" };
      const image = make("image", { ...sheet, href: `data:image/png;base64,${reading.heat[this.index]}` }, window);
      image.style.imageRendering = "pixelated";
    }
    boxes(looks) {
      const now = looks[looks.length - 1];
      const middle = (look) => { const [x, y, w, h] = this.box(look); return [x + w / 2, y + h / 2]; };
      const thin = { "vector-effect": "non-scaling-stroke", fill: "none" };
      const points = looks.map((look) => middle(look).join(",")).join(" ");
      make("polyline", { ...thin, points, stroke: "#fff", "stroke-width": 3, opacity: 0.8 }, this.svg);
      make("polyline", { ...thin, points, stroke: "#222", "stroke-width": 1 }, this.svg);
      for (const look of looks) {
        const [x, y, width, height] = this.box(look);
        const near = this.crossed(look, now);
        const around = now.parent === look.order; // the wide look inside which the last one lies
        const thick = look === now || around ? 4 : near ? 2.5 : 1;
        const rectangle = { ...thin, x, y, width, height };
        if (near) make("rect", { ...rectangle, stroke: look === now ? "#000" : "#fff", "stroke-width": thick + 3 }, this.svg);
        const dashes = around ? { "stroke-dasharray": "10 5" } : {};
        make("rect", { ...rectangle, ...dashes, stroke: look.colour, "stroke-width": thick }, this.svg);
      }
    }
    tags() { // numbers on light tags; where there is room none covers another; their size is that of letters, however far one zooms
      this.measure();
      if (!this.labels) return;
      this.labels.replaceChildren();
      if (!by("boxes").checked) return;
      const matrix = this.svg.isConnected ? this.svg.getScreenCTM() : null;
      const px = matrix && matrix.a ? 1 / matrix.a : this.view[2] / Math.max(this.svg.clientWidth, 1);
      const taken = [this.scale, this.caption].map((one) => this.covered(one));
      const clash = ([x, y, w, h]) => x < this.view[0] || y < this.view[1] || x + w > this.view[0] + this.view[2]
        || y + h > this.view[1] + this.view[3]
        || taken.some(([a, b, c, d]) => x < a + c && a < x + w && y < b + d && b < y + h);
      for (const look of reading.looks.slice(0, step).reverse()) {
        const [x, y, width, height] = this.box(look);
        if (!this.shows(x, y, width, height)) continue;
        const [wide, high] = [(8 * String(look.order).length + 7) * px, 17 * px];
        const places = [];
        for (let ring = 0; ring < 4; ring += 1) {
          const gap = (2 + 12 * ring) * px;
          const [left, right, top, bottom] = [x - wide - gap, x + width + gap, y - high - gap, y + height + gap];
          places.push([right, y], [left, y], [right, top], [left, top], [x, top], [x, bottom], [right, bottom], [left, bottom]);
        }
        const place = places.map(([a, b]) => [a, b, wide, high]).find((one) => !clash(one))
          ?? this.nearest(x + width / 2, y + height / 2, wide, high, clash)
          ?? [...this.inside(places[0], wide, high), wide, high];
        taken.push(place);
        make("rect", {
          x: place[0], y: place[1], width: wide, height: high, rx: 3 * px, fill: "#fff", stroke: look.colour,
          "stroke-width": (look.order === step ? 2.5 : 1) * px,
        }, this.labels);
        const text = make("text", {
          x: place[0] + wide / 2, y: place[1] + 13 * px, "text-anchor": "middle", "font-size": 13 * px, fill: "#111",
          "font-weight": look.order === step ? 700 : 400, "font-family": "system-ui, sans-serif",
        }, this.labels);
        text.textContent = look.order;
      }
    }
    shows(x, y, width, height) { // whether any of a box is in view
      const [left, top, across, down] = this.view;
      return x < left + across && left < x + width && y < top + down && top < y + height;
    }
    inside([x, y], wide, high) { // the nearest place of the view for a tag
      const [left, top, across, down] = this.view;
      return [Math.min(Math.max(x, left), left + across - wide), Math.min(Math.max(y, top), top + down - high)];
    }
    nearest(x, y, wide, high, clash) { // the nearest free place of the whole view; places lie half a tag apart
      const [left, top, across, down] = this.view;
      let [found, least] = [null, Infinity];
      for (let b = top; b <= top + down - high; b += high / 2) {
        for (let a = left; a <= left + across - wide; a += wide / 2) {
          const far = Math.hypot(a + wide / 2 - x, b + high / 2 - y);
          if (far < least && !clash([a, b, wide, high])) [found, least] = [[a, b, wide, high], far];
        }
      }
      return found;
    }
    covered(plate) { // what the scale or the caption covers of the drawing
      const { left, top, right, bottom } = plate.getBoundingClientRect();
      if (!this.svg.isConnected || right === left) return [0, 0, 0, 0];
      const [[x, y], [beyond, below]] = [[left, top], [right, bottom]].map(([clientX, clientY]) => this.at({ clientX, clientY }));
      return [x, y, beyond - x, below - y];
    }
    measure() {
      const matrix = this.svg.isConnected ? this.svg.getScreenCTM() : null;
      if (!matrix || !matrix.a) return;
      const pixel = 1 / matrix.a / this.unit; // of the screen, in the image's unit
      const most = Math.min(120, 0.4 * this.svg.clientWidth) * pixel;
      const power = 10 ** Math.floor(Math.log10(most));
      const length = [5, 2, 1].map((one) => one * power).find((one) => one <= most * (1 + 1e-9)); // logarithms are rounded
      const large = reading.unit === "um" && length >= 1000;
      this.scale.textContent = `${large ? length / 1000 : Number(length.toPrecision(3))} ${large ? "mm" : reading.unit.replace("um", "µm")}`;
      const bar = element("i");
      bar.style.width = `${length / pixel}px`;
      this.scale.append(bar);
    }
  }

  // ------------------------------------------------------------------------------------------ steps
  function heatStep() {
    const wanted = by("heat").value;
    if (wanted === "off") return null;
    return wanted === "before" ? Math.max(step - 1, 0) : step;
  }
  const zooms = () => reading.looks.some((look) => look.level > 0);
  function told() {
    const [caption] = reading.captions[step];
    if (!step) return `Before the first look: ${caption}.`;
    const look = reading.looks[step - 1];
    const parts = [`Look ${step} of ${reading.looks.length}: ${look.where}.`];
    if (look.parent) parts.push(`It lies inside look ${look.parent}.`);
    else if (zooms() && !look.level) parts.push("It was chosen from the overview.");
    parts.push(`After it ${caption}, before it ${reading.captions[step - 1][0]}.`);
    if (look.chance !== null) {
      const had = `Its place had the probability ${look.chance.toPrecision(2)}`;
      // With several fields of view, a cell of the overview counts what was likely inside it, too.
      parts.push(zooms() ? `${had} among all places for a look as wide.` : `${had}; the most probable cell of the overview had ${(reading.peaks[step - 1] ?? NaN).toPrecision(2)}.`);
    }
    if (look.contribution) {
      parts.push(`It has added ${signed(look.contribution[shownOutput])} to the last answer for ${reading.columns[shownOutput]}.`);
    }
    return parts.join(" ");
  }
  function show(wanted) {
    step = Math.min(Math.max(wanted, 0), reading.looks.length);
    const looks = reading.looks.slice(0, step);
    for (const panel of panels) panel.draw(looks, heatStep());
    by("slider").value = step;
    by("slider").setAttribute("aria-valuetext", step ? `look ${step} of ${reading.looks.length}` : "before the first look");
    by("before").disabled = by("first").disabled = step === 0;
    by("after").disabled = by("last").disabled = step === reading.looks.length;
    by("told").textContent = told();
    const seen = by("seen");
    seen.replaceChildren();
    const pictures = step ? looks[step - 1].glimpse : [];
    pictures.forEach((data, i) => {
      const image = element("img", "", pictures.length > 1 ? "part" : "");
      image.src = jpeg(data);
      image.alt = `What look ${step} showed${pictures.length > 1 ? `, plane ${i + 1} of ${pictures.length}` : ""}`;
      image.style.borderColor = looks[step - 1].colour;
      seen.append(image);
    });
    for (const row of by("looks-table").tBodies[0].rows) {
      row.classList.toggle("now", Number(row.dataset.step) === step);
      if (Number(row.dataset.step) === step) row.setAttribute("aria-current", "step");
      else row.removeAttribute("aria-current");
    }
  }
  function bar(value, most) {
    const node = element("span", "", "bar");
    const part = element("i", "", value < 0 ? "less" : "");
    const share = (50 * Math.abs(value)) / most;
    part.style.left = `${value < 0 ? 50 - share : 50}%`;
    part.style.width = `${share}%`;
    node.append(part);
    node.setAttribute("aria-hidden", "true");
    return node;
  }
  function fillTable() {
    const body = by("looks-table").tBodies[0];
    body.replaceChildren();
    const given = reading.looks.map((look) => look.contribution?.[shownOutput] ?? 0);
    const most = Math.max(...given.map(Math.abs), 0.01); // what reads 0.000 has no bar
    for (let i = 0; i <= reading.looks.length; i += 1) {
      const look = reading.looks[i - 1];
      const row = body.insertRow();
      row.dataset.step = i;
      const button = element("button", i ? String(i) : "0");
      button.type = "button";
      button.setAttribute("aria-label", i ? `Show look ${i}` : "Show step 0, before the first look");
      button.addEventListener("click", () => show(i));
      const first = row.insertCell();
      first.append(button);
      if (look?.parent) first.append(element("span", ` in ${look.parent}`, "inside"));
      row.append(element("td", reading.captions[i][0]), element("td", look ? signed(look.gain) : "", "number"));
      const cell = element("td", look?.contribution ? signed(given[i - 1]) : "", "number");
      if (look?.contribution) cell.append(bar(given[i - 1], most));
      row.append(cell, element("td", look && look.chance !== null ? look.chance.toPrecision(2) : "", "number spare"));
    }
    by("contribution").textContent = `Adds to ${reading.columns[shownOutput]}`;
  }

  // ------------------------------------------------------------------------------------------ cases
  function choose(index) {
    reading = record.readings[index];
    const last = reading.probabilities[reading.probabilities.length - 1];
    const shown = reading.pictured ?? [...last.keys()]; // of a task whose other outputs mean something else
    shownOutput = last.length === 2 ? 1 : shown.reduce((most, one) => last[one] > last[most] ? one : most, shown[0]);
    const longest = Math.max(...reading.panels.map((one) => Math.max(one.width, one.height)));
    panels = reading.panels.map((_, i) => new Panel(i, UNITS / longest));
    by("panels").replaceChildren(...panels.map((panel) => panel.figure));
    by("panels").classList.toggle("several", panels.length > 1);
    by("slider").max = reading.looks.length;
    by("in-place").parentElement.hidden = reading.panels[0].through !== null;
    fillTable();
    show(reading.looks.length);
    const facts = [`Answer: ${reading.answer} after ${plural(reading.looks.length, "look")}`];
    if (record.target !== null) facts.unshift(`Target: ${record.target}`);
    if (record.patient && record.patient !== record.id) facts.unshift(`Patient: ${record.patient}`);
    by("case-facts").textContent = `${facts.join(". ")}.`;
  }
  function open(found) {
    record = found;
    by("case-title").textContent = record.id;
    const models = by("model");
    models.replaceChildren(...record.readings.map((one, i) => new Option(one.model || "the model", i)));
    models.parentElement.hidden = record.readings.length < 2;
    section.hidden = false;
    choose(0);
  }
  function go() { // in a file that holds all pages, the address says which one is shown
    const name = location.hash.slice(1);
    const script = /^page-\d+$/.test(name) ? by(`${name}-record`) : null;
    const list = by("list");
    if (list) list.hidden = Boolean(script);
    if (!script) {
      section.hidden = true;
      const row = record && document.querySelector(`tr[data-page="${opened}"]`);
      if (row) { // back at the case that was shown
        row.scrollIntoView({ block: "center" });
        row.querySelector("a").focus({ preventScroll: true });
      }
      return;
    }
    opened = name;
    open(JSON.parse(script.textContent));
    const order = window.glimpseOrder();
    for (const [id, far] of [["case-before", -1], ["case-after", 1]]) {
      const next = order.includes(name) ? order[order.indexOf(name) + far] : undefined;
      by(id).hidden = next === undefined;
      if (next !== undefined) by(id).href = `#${next}`;
    }
    window.scrollTo(0, 0);
    by("case-title").focus({ preventScroll: true });
  }

  by("slider").addEventListener("input", (event) => show(Number(event.target.value)));
  by("model").addEventListener("change", (event) => choose(Number(event.target.value)));
  for (const id of ["heat", "in-place", "boxes"]) by(id).addEventListener("change", () => show(step));
  const clicks = {
    first: () => show(0), before: () => show(step - 1), after: () => show(step + 1), last: () => show(Infinity),
    nearer: () => panels.forEach((panel) => panel.zoom(1.5)), farther: () => panels.forEach((panel) => panel.zoom(1 / 1.5)),
    whole: () => panels.forEach((panel) => panel.fit()),
  };
  for (const [id, action] of Object.entries(clicks)) by(id).addEventListener("click", action);
  document.addEventListener("keydown", (event) => {
    if (section.hidden || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey && event.key !== "+") return;
    if (event.target.matches("input[type=search], select, textarea")) return;
    if (event.target.matches("input[type=range]") && /^(Arrow|Home|End)/.test(event.key)) return; // its own
    const keys = {
      ArrowRight: "after", ArrowLeft: "before", Home: "first", End: "last", "+": "nearer", "-": "farther", 0: "whole",
    };
    if (event.key === "Escape") by("back").click();
    else if (keys[event.key]) by(keys[event.key]).click();
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", () => panels.forEach((panel) => panel.tags()));
  const own = by("record");
  if (own) open(JSON.parse(own.textContent));
  else {
    window.addEventListener("hashchange", go);
    go();
  }
})();
