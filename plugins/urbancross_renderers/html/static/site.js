"use strict";
// Sorting and filtering of tables, the theme, and what is chosen in heatmaps and the gallery. Pages work without.
(() => {
  const PAGE = 200; // rows drawn at once: drawing, not sorting, is what takes time
  const THEME = "theme";
  const root = document.documentElement;

  const stored = () => { try { return localStorage.getItem(THEME); } catch { return null; } };
  const store = (value) => { try { localStorage.setItem(THEME, value); } catch { /* this page alone, then */ } };
  root.classList.add("scripted"); // rows are not laid out before those to draw are known
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();

  function theme() {
    const button = document.getElementById("theme");
    if (!button) return;
    const dark = () => root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const say = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      store(root.dataset.theme);
      say();
    });
    say();
  }

  function dataTable(table) {
    const tools = table.parentElement.previousElementSibling;
    const more = table.parentElement.nextElementSibling;
    const input = tools.querySelector("input");
    const status = tools.querySelector("[role=status]");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const order = new Intl.Collator("en", { numeric: true });
    const keys = new Map(); // column → the value of each row, or null
    let texts = null;
    let sorted = rows.map((_, i) => i);
    let limit = PAGE;
    let said = "";

    function keysOf(column) {
      if (!keys.has(column)) {
        const numeric = heads[column].classList.contains("n");
        keys.set(column, rows.map((row) => {
          const text = row.cells[column].textContent.trim();
          if (text === "–" || text === "") return null;
          const number = numeric ? parseFloat(text) : NaN;
          return Number.isNaN(number) ? text : number;
        }));
      }
      return keys.get(column);
    }

    function sort(column) {
      const head = heads[column];
      const numeric = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const direction = before === "descending" || (!before && !numeric) ? "ascending" : "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction);
      const values = keysOf(column);
      const sign = direction === "ascending" ? 1 : -1;
      const compare = numeric ? (a, b) => a - b : order.compare;
      // What is missing stands last either way; equal rows keep the order of the page.
      sorted = rows.map((_, i) => i).sort((i, k) => {
        const a = values[i], b = values[k];
        if (a === null || b === null) return (a === null) - (b === null) || i - k;
        return sign * compare(a, b) || i - k;
      });
      said = `, sorted by ${head.textContent.trim()}, ${direction}`;
      limit = PAGE;
      draw();
    }

    function matching() {
      // Words stand anywhere in a row; what is in quotes, its own ones doubled, is all that a cell says.
      const words = [...input.value.toLowerCase().matchAll(/"((?:[^"]|"")*)"|\S+/g)]
        .map(([word, cell]) => cell === undefined ? word : `\n${cell.replaceAll('""', '"')}\n`);
      if (!words.length) return sorted;
      // What marks the best and its like is no part of what a cell says.
      const said = (cell) => [...cell.childNodes].filter((one) => one.nodeName !== "SPAN").map((one) => one.textContent);
      texts ??= rows.map((row) => `\n${[...row.cells].map((one) => said(one).join("").trim()).join("\n")}\n`.toLowerCase());
      return sorted.filter((i) => words.every((word) => texts[i].includes(word)));
    }

    function draw() {
      const found = matching();
      body.replaceChildren(...found.slice(0, limit).map((i) => rows[i]));
      table.classList.add("ready");
      more.hidden = found.length <= limit;
      const drawn = Math.min(limit, found.length);
      status.textContent = `${found.length} of ${rows.length} rows${drawn < found.length ? `, ${drawn} drawn` : ""}${said}`;
    }

    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(column));
      head.append(button);
    });
    input.addEventListener("input", () => { limit = PAGE; draw(); });
    more.addEventListener("click", () => { limit += PAGE; draw(); });
    const asked = new URLSearchParams(location.hash.slice(1)).get("filter");
    if (asked) input.value = asked;
    tools.hidden = false;
    draw();
  }

  function choices(select) {
    const parts = document.querySelectorAll(`[data-choice="${select.dataset.choices}"]`);
    const show = () => parts.forEach((part, i) => { part.hidden = String(i) !== select.value; });
    select.closest(".tools").hidden = false;
    select.addEventListener("change", show);
    show();
  }

  function gallery() {
    const sides = [...document.querySelectorAll("select[data-side]")];
    if (!sides.length) return;
    const tools = sides[0].closest(".tools");
    const status = tools.querySelector("[role=status]");
    const show = () => {
      const [left, right] = sides.map((side) => side.value);
      document.querySelectorAll("[data-method]").forEach((list) => {
        const method = list.dataset.method;
        list.hidden = method !== left && method !== right;
        list.style.order = method === left ? 0 : 1;
      });
      return left === right ? "One method is shown: choose another beside it." : "";
    };
    sides.forEach((side) => side.addEventListener("change", () => { status.textContent = show(); }));
    tools.hidden = false;
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    theme();
    document.querySelectorAll("table.data").forEach(dataTable);
    document.querySelectorAll("select[data-choices]").forEach(choices);
    gallery();
  });
})();
