// Columns of a table become sortable by a button in their heading; without scripts they stay as they were written.
"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const written = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.querySelector(".hidden")) return; // a drawing
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const descending = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || x === "-" || y === "" || y === "-") return (x === "" || x === "-") - (y === "" || y === "-");
        const [n, m] = [parseFloat(x), parseFloat(y)];
        const order = Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y, undefined, { numeric: true }) : n - m;
        return descending ? -order : order;
      };
      body.append(...[...written].sort(compare));
    });
  });
}
