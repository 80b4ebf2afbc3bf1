"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function board(root, {values, doubts, full}) {
  const find = name => root.querySelector(".controls ." + name);
  const table = root.querySelector("table.grid"), body = table.tBodies[0];
  const rows = all("tr", body), heads = all("thead th", table);
  const isPublished = row => row.classList.contains("published");
  const state = {column: 1, rising: false};
  const metric = () => find("metric").value, falls = () => data.metrics[metric()].falls;
  const isShown = column => full[column] === Boolean(find("full")?.checked);
  const value = (row, column) => values[metric()][row.dataset.row][column];

  function draw() {
    const columns = full.map((_, c) => c), shown = columns.filter(isShown);
    const ranked = rows.filter(row => !isPublished(row));
    const numbers = ranked.flatMap(row => shown.map(c => value(row, c)));
    const low = Math.min(...numbers), high = Math.max(...numbers);
    const best = columns.map(c => ranked.reduce((a, b) => (falls() ? value(b, c) < value(a, c) : value(b, c) > value(a, c)) ? b : a));
    const ends = (row, c) => ["_low", "_high"].map(which => values[metric() + which]?.[row.dataset.row][c] ?? null);
    heads.slice(1).forEach((head, c) => { head.hidden = !isShown(c); });
    for (const row of rows) all("td", row).forEach((cell, c) => {
      const number = value(row, c), [from, to] = ends(row, c);
      cell.hidden = !isShown(c);
      cell.replaceChildren(make("span", {}, number === null ? "" : number.toFixed(1)));
      if (from !== null) cell.append(make("small", {}, from.toFixed(1) + "–" + to.toFixed(1)));
      if (isPublished(row)) return;
      const place = high > low ? (number - low) / (high - low) : 1;
      const isBest = number.toFixed(1) === value(best[c], c).toFixed(1), end = ends(best[c], c)[falls() ? 1 : 0];
      cell.style.setProperty("--q", Math.round(90 * (falls() ? 1 - place : place) ** 1.7));
      cell.classList.toggle("best", isBest);
      cell.classList.toggle("near", !isBest && end !== null && (falls() ? number <= end : number >= end));
    });
    sort();
  }

  function sort() {
    const {column, rising} = state, by = row => value(row, column - 1), label = row => row.dataset.name + " " + row.dataset.run;
    heads.forEach((head, i) => {
      head.removeAttribute("aria-sort");
      if (i === column) head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    });
    all("tr.more", body).forEach(row => row.remove());
    all("button.doubt", body).forEach(button => button.setAttribute("aria-expanded", "false"));
    const compare = (a, b) => {
      if (!column) return label(a).localeCompare(label(b), "en", {numeric: true}) * (rising ? 1 : -1);
      if (by(a) === null || by(b) === null) return (by(a) === null) - (by(b) === null);  // missing: last in any order
      return (by(a) - by(b)) * (rising ? 1 : -1);
    };
    rows.sort(compare);
    body.append(...rows);
    const of = column ? by : row => value(row, full.findIndex((_, c) => isShown(c)));
    const ranked = rows.filter(row => !isPublished(row)), found = ranked.map(of).sort((a, b) => falls() ? a - b : b - a);
    for (const row of ranked) row.querySelector(".rank").textContent = found.indexOf(of(row)) + 1;
    narrow();
  }

  function narrow() {
    const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean), run = find("run")?.value;
    let count = 0;
    for (const row of rows) {
      const text = (row.dataset.name + " " + row.dataset.run).toLowerCase();
      row.hidden = !words.every(word => text.includes(word)) || (isPublished(row) ? !find("papers").checked
        : (Boolean(run) && row.dataset.run !== run) || (find("sound")?.checked && doubts[row.dataset.row].length > 0));
      count += !row.hidden && !isPublished(row);
    }
    find("count").textContent = count + " of " + doubts.length + " results";
    const scroll = table.parentElement;
    scroll.classList.remove("fits");
    scroll.classList.toggle("fits", table.scrollWidth <= scroll.clientWidth);
  }

  const isBetterLow = column => column === 0 || falls();
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    state.rising = state.column === i ? !state.rising : isBetterLow(i);
    state.column = i;
    sort();
  }));
  find("metric").addEventListener("input", () => { state.rising = isBetterLow(state.column); draw(); });
  find("full")?.addEventListener("input", () => { state.column = 1 + full.findIndex((_, c) => isShown(c)); state.rising = falls(); draw(); });
  for (const name of ["filter", "run", "sound", "papers"]) find(name)?.addEventListener("input", narrow);
  find("ends").addEventListener("input", () => { table.classList.toggle("ends", find("ends").checked); narrow(); });
  all("button.doubt", body).forEach(button => button.addEventListener("click", () => {
    const row = button.closest("tr"), isOpen = row.nextElementSibling?.classList.contains("more");
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) { row.nextElementSibling.remove(); return; }
    const told = doubts[row.dataset.row].map(text => make("p", {}, text));
    row.after(make("tr", {class: "more"}, make("td", {colspan: heads.length}, make("div", {class: "told"}, ...told))));
  }));
  draw();
  return narrow;
}

const narrowed = all("section.board").map((root, i) => board(root, data.boards[i]));
addEventListener("resize", () => narrowed.forEach(narrow => narrow()));
