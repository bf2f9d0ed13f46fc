// Headings become buttons that sort the rows: by the first number of a cell if all have one.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent;
      const number = (row) => parseFloat(text(row).replace(/,/g, ""));
      const rows = [...body.rows], numbers = rows.every((row) => !Number.isNaN(number(row)));
      rows.sort((a, b) => numbers ? number(a) - number(b) : text(a).localeCompare(text(b)));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
