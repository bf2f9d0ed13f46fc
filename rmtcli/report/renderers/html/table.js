"use strict";
// Headings become buttons that sort the rows, and a field filters them; without scripts the table
// stays as it is.
const text = (row, index) => row.cells[index].textContent.trim();
const number = (row, index) => {
  const value = parseFloat(text(row, index).replaceAll(",", ""));
  return Number.isNaN(value) ? -Infinity : value;
};
for (const table of document.querySelectorAll("table.layers")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const compare = head.classList.contains("number")
        ? (a, b) => {
            const [x, y] = [number(a, index), number(b, index)];
            return x < y ? -1 : x > y ? 1 : 0;
          }
        : (a, b) => text(a, index).localeCompare(text(b, index), "en", { numeric: true });
      const rows = [...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  });
  const all = body.rows.length;
  if (all < 6) continue;
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("output");
  field.type = "search";
  label.className = "filter";
  label.append("Filter ", field, " ", count);
  table.parentElement.before(label);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of body.rows) {
      const cells = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => cells.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = field.value ? `${shown} of ${all} rows` : "";
  });
}
// A link to a layer opens its panel, also in browsers that do not do so themselves.
const open = () => {
  const target = document.getElementById(location.hash.slice(1));
  const panel = target && target.closest("details");
  if (panel && !panel.open) {
    panel.open = true;
    panel.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();
