"use strict";
// Table headings become buttons that sort the rows; without scripts they stay headings.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const text = (row) => row.cells[index].textContent;
    const number = (row) => {
      const value = parseFloat(text(row).replaceAll(",", ""));
      return Number.isNaN(value) ? -Infinity : value;
    };
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const compare = head.classList.contains("number")
        ? (a, b) => (number(a) < number(b) ? -1 : number(a) > number(b) ? 1 : 0)
        : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
      const rows = [...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}
