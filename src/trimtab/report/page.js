// Hover, legends and the copy button of a trimtab report. Every svg.plot says in data-* attributes where its axes lie
// (data-x0..x1 at data-px0..px1 units of the SVG) and holds in data-hover the numbers it was drawn from.
"use strict";
(() => {
  const tip = document.getElementById("tip");
  const number = (value) => value === null || value === undefined ? "NaN" : typeof value === "string" ? value
    : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(5));
  const row = (colour, name, value) => {
    const line = document.createElement("div"), swatch = document.createElement("i");
    swatch.style.background = colour ? `var(--${colour})` : "transparent";
    const label = document.createElement("span"), amount = document.createElement("b");
    label.textContent = name; amount.textContent = value;
    line.append(swatch, label, amount);
    return line;
  };
  const show = (title, rows, x, y) => {
    const head = document.createElement("strong");
    head.textContent = title;
    tip.replaceChildren(head, ...rows);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 16, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? Math.max(8, y - box.height - 14) : y + 18) + "px";
  };
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (steps[middle] < step) low = middle + 1; else high = middle; }
    return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
  };

  const draw = {
    curves(svg, data, at, x, y) {
      const seen = data.filter((_, i) => !svg.querySelector(`.series-${i}`)?.classList.contains("off"));
      if (!seen.length) return null;
      const close = seen.map((s) => nearest(s.steps, at.x));
      const step = seen.map((s, i) => s.steps[close[i]]).reduce((a, b) => Math.abs(b - at.x) < Math.abs(a - at.x) ? b : a);
      const rows = seen.map((s) => {
        const i = nearest(s.steps, step), away = s.steps[i] === step ? "" : ` @ ${s.steps[i].toLocaleString("en")}`;
        let text = number(s.values[i]);
        if (s.band) { const j = nearest(s.band.steps, step); text += ` [${number(s.band.low[j])}, ${number(s.band.high[j])}]`; }
        return row(s.colour, s.name + away, text);
      });
      show(`step ${step.toLocaleString("en")}`, rows, x, y);
      return step;
    },
    heatmap(svg, data, at, x, y) {
      const column = Math.floor(at.x), line = Math.floor(at.y), cells = data.cells[line];
      if (!cells || column < 0 || column >= cells.length) return null;
      const first = data.first[column], last = data.last[column];
      const title = first === last ? `step ${first.toLocaleString("en")}` : `steps ${first.toLocaleString("en")} to ${last.toLocaleString("en")}`;
      show(title, [row("", data.names[line], number(cells[column])), row("", "median of the layer", number(data.median[line]))], x, y);
      return column + 0.5;
    },
    history(svg, data, at, x, y) {
      const i = Math.round(at.x);
      if (i < 0 || i >= data.recipes.length) return null;
      const said = data.values[i] !== null ? number(data.values[i]) : data.statuses[i] + (data.last[i] !== null ? ` at ${number(data.last[i])}` : "");
      show(`trial ${i}`, [row("", data.recipes[i], ""), row("base", data.metric, said), row("c0", "best so far", number(data.best[i]))], x, y);
      return i;
    },
    coordinates(svg, data, at, x, y) {
      const left = Math.max(0, Math.min(Math.floor(at.x), data[0].places.length - 2)), part = at.x - left;
      const away = (line) => Math.abs(line.places[left] * (1 - part) + line.places[left + 1] * part - at.y)
        + (svg.querySelector(`.series-${line.group}`)?.classList.contains("off") ? 9 : 0);
      const line = data.reduce((best, one) => away(one) <= away(best) ? one : best);
      if (away(line) > 0.08) { tip.hidden = true; return null; }
      show(line.result, [row(line.colour, line.name, "")], x, y);
      return null;
    },
    trials(svg, data, at, x, y) {
      show("difference of each seed", data.seeds.map((seed, i) => row("", `seed ${seed}`, number(data.differences[i]))), x, y);
      return null;
    },
  };

  for (const svg of document.querySelectorAll("svg.plot")) {
    const set = svg.dataset, kind = draw[set.kind], data = JSON.parse(set.hover);
    if (!kind) continue;
    const [x0, x1, y0, y1, px0, px1, py0, py1] = ["x0", "x1", "y0", "y1", "px0", "px1", "py0", "py1"].map((key) => +set[key]);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cursor");
    const hide = () => { tip.hidden = true; line.remove(); };
    const point = (x, y) => {
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const px = (x - box.left) * scale, py = (y - box.top) * scale;
      if (px < px0 - 12 || px > px1 + 12) return hide();
      const at = { x: x0 + (px - px0) / (px1 - px0) * (x1 - x0), y: y0 + (py - py0) / (py1 - py0) * (y1 - y0) };
      const mark = kind(svg, data, at, x, y);
      if (mark === null) { line.remove(); if (set.kind === "heatmap") tip.hidden = true; return; }
      const cx = px0 + (mark - x0) / (x1 - x0) * (px1 - px0);
      for (const [key, value] of Object.entries({ x1: cx, x2: cx, y1: py0, y2: py1 })) line.setAttribute(key, value);
      svg.append(line);
    };
    svg.addEventListener("pointermove", (event) => point(event.clientX, event.clientY));
    svg.addEventListener("pointerdown", (event) => point(event.clientX, event.clientY));
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    let walk = 0.5; // arrow keys walk over the axis, so that the numbers can be read without a pointer
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      walk = Math.min(1, Math.max(0, walk + move / 100));
      const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
      point(box.left + (px0 + walk * (px1 - px0)) * scale, box.top + (py0 + py1) / 2 * scale);
    });
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true", i = button.dataset.series;
      button.setAttribute("aria-pressed", on);
      for (const part of button.closest("figure").querySelectorAll(`.series-${i}, .of-${i}`)) part.classList.toggle("off", !on);
    });
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(code); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
})();
