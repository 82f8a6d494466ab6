"use strict";
// Without this script the page shows the last snapshot, and curves not at all.
const groups = JSON.parse(document.getElementById("data").textContent);

function number(value) {
  const digits = Math.abs(value) < 100 ? 3 : 4;
  return value.toLocaleString("en", {minimumSignificantDigits: digits, maximumSignificantDigits: digits});
}

function svg(parent, name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// About `count` round numbers from low to high.
function ticks(low, high, count) {
  const size = 10 ** Math.floor(Math.log10((high - low || 1) / count));
  const step = [1, 2, 5, 10].map(times => times * size).find(each => (high - low) / each <= count) || size;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// 1, 2 and 5 times powers of ten, or powers alone where there are many.
function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
    for (const times of high / low > 300 ? [1] : [1, 2, 5]) found.push(times * 10 ** power);
  const inside = found.filter(tick => tick >= low && tick <= high);
  return inside.length > 2 ? inside : ticks(low, high, 4);
}

function chart(box, legend, series) {
  const entries = [...legend.children];
  const every = series.flatMap(each => [each.points, ...each.seeds.map(seed => seed.points)]).flat();
  const steps = [...new Set(series.flatMap(each => each.points.map(point => point[0])))].sort((a, b) => a - b);
  if (!steps.length) return {to() {}};
  const values = every.map(point => point[1]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const log = low > 0 && high > 4 * low;
  let place = steps.length - 1, x, y, marks;

  function draw() {
    const [width, height] = [box.clientWidth, box.clientHeight];
    const [left, right, top, bottom] = [52, width - 14, 10, height - 40];
    const [first, last] = [Math.min(0, steps[0]), steps[steps.length - 1]];
    const scaled = log ? Math.log : value => value;
    const [down, up] = [scaled(low), scaled(high)];
    x = step => left + (right - left) * (step - first) / (last - first || 1);
    y = value => bottom - (bottom - top) * (scaled(value) - down) / (up - down || 1);
    box.replaceChildren();
    const root = svg(box, "svg", {"aria-hidden": "true"});
    for (const tick of log ? logTicks(low, high) : ticks(low, high, 5)) {
      svg(root, "line", {class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick)});
      svg(root, "text", {x: left - 8, y: y(tick) + 4, "text-anchor": "end"}, tick.toLocaleString("en", {maximumSignificantDigits: 3}));
    }
    for (const tick of ticks(first, last, width / 110))
      svg(root, "text", {x: x(tick), y: bottom + 18, "text-anchor": "middle"}, tick.toLocaleString("en"));
    svg(root, "text", {x: right, y: bottom + 36, "text-anchor": "end"}, "training steps");
    marks = svg(root, "g", {});
    const line = points => points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    series.forEach((each, i) => {
      const colour = `--colour: var(--series-${i % 8})`;
      if (each.seeds.length > 1)
        for (const seed of each.seeds) svg(root, "path", {class: "seed", style: colour, d: line(seed.points)});
      svg(root, "path", {class: `mean line-${i % 4}`, style: colour, d: line(each.points)});
    });
    root.append(marks);
    show();
  }

  // The values at the cursor, in the legend and to be read aloud.
  function show() {
    const step = steps[place];
    marks.replaceChildren();
    svg(marks, "line", {class: "cursor", x1: x(step), x2: x(step), y1: 10, y2: box.clientHeight - 40});
    const spoken = series.map((each, i) => {
      const at = points => (points.find(point => point[0] === step) || [])[1];
      const value = at(each.points);
      const [mean, seeds] = entries[i].querySelectorAll("b, small");
      mean.textContent = value === undefined ? "–" : number(value);
      const single = each.seeds.map(seed => [seed.seed, at(seed.points)]).filter(seed => seed[1] !== undefined);
      seeds.textContent = single.map(seed => `seed ${seed[0]}: ${number(seed[1])}`).join(" · ");
      if (value !== undefined)
        svg(marks, "circle", {r: 4.5, cx: x(step), cy: y(value), style: `--colour: var(--series-${i % 8})`});
      return `${each.label} ${mean.textContent}`;
    });
    svg(marks, "text", {x: Math.min(Math.max(x(step), 80), box.clientWidth - 40), y: 4, "text-anchor": "middle"}, `step ${step.toLocaleString("en")}`);
    box.setAttribute("aria-valuetext", `step ${step}: ${spoken.join(", ")}`);
    box.setAttribute("aria-valuenow", step);
  }

  function move(to) {
    place = Math.max(0, Math.min(steps.length - 1, to));
    show();
  }

  // The place of the last step that is not later, or of the first.
  const upTo = step => Math.max(0, steps.findLastIndex(each => each <= step));

  box.setAttribute("aria-valuemin", steps[0]);
  box.setAttribute("aria-valuemax", steps[steps.length - 1]);
  box.addEventListener("pointermove", event => {
    const at = event.clientX - box.getBoundingClientRect().left;
    const distances = steps.map(step => Math.abs(x(step) - at));
    move(distances.indexOf(Math.min(...distances)));
  });
  box.addEventListener("keydown", event => {
    const far = Math.ceil(steps.length / 10);
    const to = {
      ArrowLeft: place - 1, ArrowDown: place - 1, ArrowRight: place + 1, ArrowUp: place + 1,
      PageDown: place - far, PageUp: place + far, Home: 0, End: steps.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  });
  new ResizeObserver(draw).observe(box);
  draw();
  return {to: step => move(upTo(step))};
}

document.querySelectorAll(".group").forEach((section, i) => {
  const {steps, pictures, charts} = groups[i];
  const legends = section.querySelectorAll(".legend");
  const drawn = [...section.querySelectorAll(".chart")].map((box, j) => chart(box, legends[j], charts[j].series));
  const slider = section.querySelector("input[type=range]");
  if (!slider) return;
  const panels = section.querySelectorAll("[data-panel]");
  slider.addEventListener("input", () => {
    const place = Number(slider.value), step = steps[place];
    // A run that has no snapshot here keeps its last one.
    panels.forEach((panel, j) => {
      panel.src = pictures[j].slice(0, place + 1).findLast(Boolean) || pictures[j].find(Boolean);
    });
    section.querySelector("output").textContent = step.toLocaleString("en");
    slider.setAttribute("aria-valuetext", `${step} steps`);
    for (const each of drawn) each.to(step);
  });
});

// A link to a row opens it.
function open() {
  const row = document.getElementById(location.hash.slice(1));
  if (!(row instanceof HTMLDetailsElement)) return;
  row.open = true;
  row.querySelector("summary").focus();
  row.scrollIntoView();
}
addEventListener("hashchange", open);
document.querySelectorAll('a[href^="#row-"]').forEach(link => link.addEventListener("click", () => setTimeout(open)));
open();
