"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = id => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const NS = "http://www.w3.org/2000/svg";

const breakable = text => text.split(/(?<=[_.])/).flatMap(part => [part, document.createElement("wbr")]);

function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(NS, tag.slice(4)) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// --- detectors by sets
const body = document.querySelector("#metrics tbody");
const rows = all("tr", body);
const heads = all("#metrics thead th");
const at = new Map(data.names.map((name, i) => [name, i]));
const state = {column: 1, rising: false};

const metric = () => find("metric").value;
const isShown = column => (!find("full") ? true : data.columns[column].full === find("full").checked)
  && (!find("group")?.value || data.columns[column].group.replace(/^fs\//, "") === find("group").value
      || (!data.columns[column].group && data.columns[column].mean));

function draw() {
  const name = metric(), falls = data.metrics[name].falls, table = data.values[name];
  const shown = data.columns.map((_, c) => c).filter(isShown);
  const numbers = table.flatMap(row => shown.map(c => row[c]));
  const low = Math.min(...numbers), high = Math.max(...numbers);
  const limits = data.columns.map((_, c) => {
    const column = table.map(row => row[c]);
    const best = falls ? Math.min(...column) : Math.max(...column);
    const end = data.values[name + (falls ? "_high" : "_low")]?.[column.indexOf(best)][c] ?? null;
    return {best: best.toFixed(1), end};
  });
  for (const row of rows) {
    const i = at.get(row.dataset.name);
    all("td.value", row).forEach((cell, c) => {
      const value = table[i][c], place = high > low ? (value - low) / (high - low) : 1;
      cell.hidden = !shown.includes(c);
      cell.dataset.value = value;
      cell.style.setProperty("--q", Math.round(90 * (falls ? 1 - place : place) ** 1.7));
      const isBest = value.toFixed(1) === limits[c].best, end = limits[c].end;
      cell.classList.toggle("best", isBest);
      cell.classList.toggle("near", !isBest && end !== null && (falls ? value <= end : value >= end));
      cell.textContent = value.toFixed(1);
      const ends = ["_low", "_high"].map(which => data.values[name + which]?.[i][c] ?? null);
      if (ends[0] !== null) cell.append(make("small", {}, ends.map(end => end.toFixed(1)).join("–")));
    });
  }
  heads.slice(1, 1 + data.columns.length).forEach((head, c) => { head.hidden = !shown.includes(c); });
  sort();
}

function sort() {
  heads.forEach((head, i) => {
    head.removeAttribute("aria-sort");
    if (i === state.column) head.setAttribute("aria-sort", state.rising ? "ascending" : "descending");
  });
  const value = row => row.children[state.column].dataset.value ?? row.children[state.column].textContent;
  const compare = state.column
    ? (a, b) => value(a) - value(b)
    : (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", {numeric: true});
  all("tr.more", body).forEach(row => row.remove());
  all("[data-doubt]", body).forEach(button => button.setAttribute("aria-expanded", "false"));
  rows.sort((a, b) => state.rising ? compare(a, b) : compare(b, a));
  body.append(...rows);
  narrow();
}

function narrow() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const name = row.dataset.name.toLowerCase();
    row.hidden = !words.every(word => name.includes(word)) || (find("sound")?.checked && row.dataset.name in data.doubts);
    count += !row.hidden;
  }
  find("count").textContent = count + " of " + rows.length + " detectors";
  const scroll = find("metrics").parentElement;
  scroll.classList.remove("fits");
  scroll.classList.toggle("fits", find("metrics").scrollWidth <= scroll.clientWidth);
}

const isBetterLow = column => column > data.columns.length || column === 0
  || data.metrics[metric()].falls;
heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
  state.rising = state.column === i ? !state.rising : isBetterLow(i);
  state.column = i;
  sort();
}));
find("metric").addEventListener("input", () => {
  if (state.column && state.column <= data.columns.length) state.rising = data.metrics[metric()].falls;
  draw();
});
for (const id of ["group", "full"]) find(id)?.addEventListener("input", () => {
  draw();
  const first = heads.findIndex((head, i) => i && !head.hidden);
  if (heads[state.column].hidden) { state.column = first; state.rising = data.metrics[metric()].falls; sort(); }
});
for (const id of ["filter", "sound"]) find(id)?.addEventListener("input", narrow);
find("ends").addEventListener("input", () => { find("metrics").classList.toggle("ends", find("ends").checked); narrow(); });

all("[data-detector]").forEach(button => button.replaceChildren(...breakable(button.dataset.detector)));
all("[data-doubt]").forEach(button => button.addEventListener("click", () => {
  const row = button.closest("tr"), isOpen = row.nextElementSibling?.classList.contains("more");
  button.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) { row.nextElementSibling.remove(); return; }
  row.after(make("tr", {class: "more"}, make("td", {colspan: heads.length}, doubts(button.dataset.doubt))));
}));

function doubts(name) {
  return make("div", {class: "told"}, ...(data.doubts[name] ?? []).map(text => make("p", {}, text)));
}

// --- one detector, drawn when it is chosen
const colour = i => i ? "var(--set" + (i - 1) % 7 + ")" : "var(--id)";
const dash = i => i ? ["", "7 3", "2 3", "8 3 2 3"][(i - 1) % 4] : "";
const setNames = ["ID", ...data.sets];
const hiddenSets = new Set();
const tick = value => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toPrecision(4));
const percent = value => (value / 100).toFixed(1);  // shares are stored in units of 1/10000

function ticks(low, high, count) {
  const step = 10 ** Math.floor(Math.log10((high - low) / count)), width = (high - low) / count / step;
  const size = step * (width > 5 ? 10 : width > 2 ? 5 : width > 1 ? 2 : 1);
  const found = [];
  for (let i = Math.ceil(low / size); i * size <= high && found.length < 20; i++) found.push(i * size);
  return found;
}

function panel(width, height, label, up) {
  const box = {left: 46, top: 14, right: width - 10, bottom: height - 40};
  const svg = make("svg:svg", {viewBox: [0, 0, width, height].join(" "), width, height, role: "img", "aria-label": label});
  svg.append(make("svg:text", {x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle", class: "quiet"}, label));
  svg.append(make("svg:text", {x: 0, y: 9, class: "quiet"}, up));
  svg.append(make("svg:path", {d: "M" + [box.left, box.bottom, "H" + box.right].join(" "), stroke: "var(--line)", fill: "none"}));
  return [svg, box];
}

function line(points, i, extra = {}) {
  const d = points.map(([x, y], j) => (j ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1)).join("");
  return make("svg:path", {d, fill: "none", stroke: colour(i), "stroke-width": 1.8, "stroke-dasharray": dash(i), ...extra});
}

const label = (x, y, text, anchor = "middle") => make("svg:text", {x, y, "text-anchor": anchor}, text);
const rule = (d, extra = {}) => make("svg:path", {d, stroke: "var(--quiet)", "stroke-dasharray": "4 3", fill: "none", ...extra});

function histogram(found, width) {
  const height = Math.min(340, Math.max(220, width * .55)), {low, high, shares} = found.histogram, bins = shares[0].length;
  const [svg, box] = panel(width, height, width < 420 ? "score (higher = more in-distribution)" : "score (higher = more in-distribution); outermost bins hold the tails", "share of the set's images, %");
  const most = Math.max(1, ...shares.filter((_, i) => !hiddenSets.has(i)).flat());
  const x = value => box.left + (value - low) / (high - low) * (box.right - box.left);
  const y = share => box.bottom - share / most * (box.bottom - box.top - 8);
  for (const value of ticks(low, high, width < 420 ? 4 : 7)) svg.append(label(x(value), box.bottom + 15, tick(value)));
  for (const value of ticks(0, most / 100, 4)) if (value) svg.append(label(box.left - 6, y(value * 100) + 4, tick(value), "end"));
  shares.forEach((counts, i) => {
    if (hiddenSets.has(i)) return;
    const edge = b => box.left + b / bins * (box.right - box.left);
    const points = counts.flatMap((share, b) => [[edge(b), y(share)], [edge(b + 1), y(share)]]);
    svg.append(i ? line(points, i) : line([[box.left, box.bottom], ...points, [box.right, box.bottom]], 0, {fill: "var(--id)", "fill-opacity": .45, stroke: "none"}));
  });
  const cut = Math.min(box.right, Math.max(box.left, x(found.cut)));
  svg.append(rule("M" + cut + " " + box.top + "V" + box.bottom));
  svg.append(label(cut + (cut > width / 2 ? -4 : 4), box.top + 8, "keeps 95 % of ID", cut > width / 2 ? "end" : "start"));
  return [svg, pixel => low + Math.min(1, Math.max(0, (pixel - box.left) / (box.right - box.left))) * (high - low)];
}

function roc(found, width) {
  const height = Math.min(340, Math.max(220, width * .55));
  const [svg, box] = panel(width, height, "share of OOD accepted, % (false positives)", "share of ID kept, %");
  const x = share => box.left + share / 10000 * (box.right - box.left), y = share => box.bottom - share / 10000 * (box.bottom - box.top);
  for (const value of [0, 25, 50, 75, 100]) svg.append(label(x(value * 100), box.bottom + 15, value));
  for (const value of [0, 50, 95]) svg.append(label(box.left - 6, y(value * 100) + 4, value, "end"));
  svg.append(rule("M" + box.left + " " + y(9500) + "H" + box.right), rule("M" + x(0) + " " + y(0) + "L" + x(10000) + " " + y(10000), {stroke: "var(--line)"}));
  const kept = found.curves.kept;
  kept.forEach((shares, i) => {
    if (!i || hiddenSets.has(i)) return;
    const points = shares.map((share, t) => [x(share), y(kept[0][t])]);
    svg.append(line([...points, [x(0), y(0)]], i));
    const t = found.curves.at.findIndex(value => value >= found.cut);
    if (t >= 0) svg.append(make("svg:circle", {cx: x(shares[t]), cy: y(kept[0][t]), r: 4, fill: colour(i)}));
  });
  return [svg, null];
}

function bars(classes, width) {
  const rows = classes.names.map((name, i) => [name, classes.accepted[i], classes.rejected[i]]);
  const step = 20, left = Math.min(150, width * .34), half = (width - left) / 2 - 34;
  const svg = make("svg:svg", {viewBox: "0 0 " + width + " " + (rows.length * step + 22), width, height: rows.length * step + 22, role: "img", "aria-label": "mistakes by class"});
  ["OOD accepted, %", "ID rejected, %"].forEach((text, side) => svg.append(make("svg:text", {x: left + side * (half + 34), y: 12, class: "quiet"}, text)));
  rows.forEach(([name, ...shares], i) => {
    const top = 20 + i * step;
    svg.append(label(left - 8, top + 13, name.length > 20 ? name.slice(0, 19) + "…" : name, "end"));
    shares.forEach((share, side) => {
      const from = left + side * (half + 34);
      if (share === null) { svg.append(make("svg:text", {x: from, y: top + 13, class: "quiet"}, "no image")); return; }
      svg.append(make("svg:rect", {x: from, y: top + 3, width: Math.max(1, share / 100 * half), height: step - 7, fill: "var(--bad)"}));
      svg.append(label(from + share / 100 * half + 4, top + 13, share, "start"));
    });
  });
  return svg;
}

function chart(items, width) {
  const left = Math.min(190, width * .42), step = 22, values = items.map(item => item[1]);
  const low = Math.min(...values, 1), high = Math.max(...values, 1), right = width - 60;
  const x = value => left + (high > low ? (value - low) / (high - low) : .5) * (right - left);
  const svg = make("svg:svg", {viewBox: "0 0 " + width + " " + (items.length * step + 6), width, height: items.length * step + 6, role: "img", "aria-label": "ratios"});
  svg.append(rule("M" + x(1) + " 0V" + items.length * step));
  items.forEach(([name, value, chosen], i) => {
    const y = i * step + step / 2;
    svg.append(label(left - 8, y + 4, name + (chosen ? " (chosen)" : ""), "end"));
    svg.append(rule("M" + x(1) + " " + y + "H" + x(value), {"stroke-dasharray": "", "stroke-width": chosen ? 3 : 1.5}));
    svg.append(make("svg:circle", {cx: x(value), cy: y, r: chosen ? 5 : 3.5, fill: "var(--fg)"}), label(Math.max(x(value), x(1)) + 9, y + 4, value.toPrecision(4), "start"));
  });
  return svg;
}

function band(curve, width, name) {
  const height = 190, isLog = name.includes("contributions");
  const [svg, box] = panel(width, height, isLog ? "rank of the unit" : "state of a neuron", "line: median; band: 10th to 90th percentile");
  const n = curve.middle.length, place = isLog ? Math.log10 : value => Math.min(1, Math.max(0, value));
  const stairs = curve.at.length > n;
  const low = Math.min(0, ...curve.low), high = Math.max(...curve.high), from = place(curve.at[0]), to = place(curve.at[curve.at.length - 1]);
  const x = value => box.left + (place(value) - from) / (to - from || 1) * (box.right - box.left);
  const y = value => box.bottom - (value - low) / (high - low || 1) * (box.bottom - box.top);
  const trace = part => part.flatMap((value, i) => stairs ? [[x(curve.at[i]), y(value)], [x(curve.at[i + 1]), y(value)]] : [[x(curve.at[i]), y(value)]]);
  svg.append(line([...trace(curve.high), ...trace(curve.low).reverse()], 0, {fill: "var(--id)", "fill-opacity": .35, stroke: "none"}));
  svg.append(line(trace(curve.middle), 0, {stroke: "var(--fg)"}));
  for (const value of ticks(low, high || 1, 3)) svg.append(label(box.left - 6, y(value) + 4, tick(value), "end"));
  for (const value of isLog ? [1, 10, 100, 1000, 10000].filter(v => v <= curve.at[curve.at.length - 1]) : [0, .5, 1]) svg.append(label(x(value), box.bottom + 15, value));
  return svg;
}

function numbers(name) {
  const i = at.get(name), names = Object.keys(data.metrics);
  const head = make("tr", {}, make("th", {}, "set"), ...names.map(key => make("th", {class: "number"}, data.metrics[key].title)));
  const lines = data.columns.map((column, c) => isShown(c) || !column.full ? make("tr", {},
    make("td", {}, ...breakable(column.title), column.mean ? "" : " (" + column.group + ")"),
    ...names.map(key => {
      const cell = make("td", {class: "number"}, data.values[key][i][c].toFixed(1));
      const low = data.values[key + "_low"]?.[i][c] ?? null;
      if (low !== null) cell.append(" ", make("small", {}, low.toFixed(1) + "–" + data.values[key + "_high"][i][c].toFixed(1)));
      return cell;
    })) : "");
  return make("div", {class: "scroll", tabindex: 0}, make("table", {class: "plain numbers"}, make("thead", {}, head), make("tbody", {}, ...lines)));
}

function legend(redraw) {
  return make("div", {class: "legend"}, ...setNames.map((name, i) => {
    const mark = make("svg:svg", {viewBox: "0 0 26 10", "aria-hidden": "true"}, i ? line([[0, 5], [26, 5]], i, {"stroke-width": 2.5}) : make("svg:rect", {width: 26, height: 10, fill: "var(--id)", "fill-opacity": .45}));
    const button = make("button", {type: "button", "aria-pressed": String(!hiddenSets.has(i)), title: "show or hide"}, mark, name);
    button.addEventListener("click", () => { hiddenSets.has(i) ? hiddenSets.delete(i) : hiddenSets.add(i); redraw(); });
    return button;
  }));
}

function images(name, found) {
  const parts = [];
  for (const [title, entries] of found.mistakes) {
    parts.push(make("h3", {}, title), make("div", {class: "images"}, ...entries.map(([key, set, truth, taken, score]) => {
      const source = data.images[key], place = key.slice(key.lastIndexOf("/") + 1);
      const picture = source ? make("img", {src: source, alt: set + " " + place, loading: "lazy"}) : make("div", {class: "none"}, "image " + place);
      const isRight = truth && truth === taken;
      return make("figure", {title: set + ", index " + place}, picture, make("figcaption", {}, (truth || set) + (isRight ? "" : " → " + taken), make("br"), make("span", {class: "quiet"}, tick(score))));
    })));
  }
  return parts;
}

function show(name) {
  const found = data.detectors[name], root = find("one");
  if (!found || !root) return;
  find("choice").value = name;
  rows.forEach(row => row.classList.toggle("chosen", row.dataset.name === name));
  const fit = data.fits[name] ?? {facts: [], charts: {}, curves: {}};
  const plots = make("div", {class: "plots"}), readout = make("p", {class: "readout"});
  const parts = [make("h3", {}, name)];
  if (data.doubts[name]) parts.push(doubts(name));
  parts.push(numbers(name), make("h3", {}, "Scores and ROC curves"), legend(() => show(name)), plots, readout);
  const mistakes = make("div", {});
  parts.push(make("h3", {}, "Mistakes by class, at the threshold that keeps 95 % of the ID images"), mistakes, ...images(name, found));
  const charts = make("div", {class: "plots"});
  const hasFit = fit.facts.length || Object.keys(fit.charts).length || Object.keys(fit.curves).length;
  if (hasFit) parts.push(make("h3", {}, "What the fit found"));
  if (fit.facts.length) parts.push(make("table", {class: "plain"}, ...fit.facts.map(([key, value]) => make("tr", {}, make("td", {}, key), make("td", {}, value)))));
  if (hasFit) parts.push(charts);
  root.replaceChildren(...parts);
  const paint = () => {
    const columns = getComputedStyle(plots).gridTemplateColumns.split(" ");
    const width = Math.max(260, parseFloat(columns[0]) || root.clientWidth || 600);
    plots.replaceChildren(...[histogram, roc].map(drawn => {
      const [svg, score] = drawn(found, width);
      if (score) svg.addEventListener("pointermove", event => read(score((event.clientX - svg.getBoundingClientRect().left) * width / svg.getBoundingClientRect().width)));
      return make("div", {}, svg);
    }));
    mistakes.replaceChildren(bars(found.classes, Math.min(760, root.clientWidth || 600)));
    charts.replaceChildren(
      ...Object.entries(fit.charts).map(([title, items]) => make("div", {}, make("p", {}, title + " of each block; 1: ID and pseudo-OOD alike"), chart(items, width))),
      ...Object.entries(fit.curves).map(([title, curve]) => make("div", {}, make("p", {}, title), band(curve, width, title))));
  };
  const read = score => {
    const t = found.curves.at.findIndex(value => value >= score);
    const shares = found.curves.kept.map(kept => t < 0 ? 0 : kept[t]);
    readout.textContent = "Score ≥ " + tick(score) + ": " + setNames.map((set, i) => set + " " + percent(shares[i]) + " %").join(", ");
  };
  paint();
  read(found.cut);
  repaint = paint;
}

let repaint = () => {}, lastWidth = 0;
if (find("choice")) {
  const move = by => show(data.names[(at.get(find("choice").value) + by + data.names.length) % data.names.length]);
  find("choice").addEventListener("input", () => show(find("choice").value));
  find("before").addEventListener("click", () => move(-1));
  find("after").addEventListener("click", () => move(1));
  all("[data-detector]").forEach(button => button.addEventListener("click", () => {
    show(button.dataset.detector);
    find("detector").scrollIntoView();
  }));
  show(data.names[0]);
  addEventListener("beforeprint", () => repaint());
}
new ResizeObserver(() => {
  if (document.body.clientWidth === lastWidth) return;
  lastWidth = document.body.clientWidth;
  narrow();
  repaint();
}).observe(document.body);
all(".grid.shares").forEach(table => table.parentElement.classList.toggle("fits", table.scrollWidth <= table.parentElement.clientWidth));
draw();
