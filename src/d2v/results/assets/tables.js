"use strict";
// Sorts a table by a column within each of its groups; a gap stays under its row. A third press
// brings the given order back.
for (const table of document.querySelectorAll("table.results")) {
  const heads = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies].map((body) => ({
    body,
    top: [...body.rows].filter((row) => row.classList.contains("group")),
    items: items(body),
  }));
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sort(head, column));
  });
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    const place = table.parentElement.nextElementSibling;
    if (cell && place) place.textContent = cell.title;
  });

  function sort(head, column) {
    const next = { none: "descending", descending: "ascending", ascending: "none" };
    const order = next[head.getAttribute("aria-sort")];
    for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    for (const { body, top, items } of bodies) {
      const sorted = [...items];
      if (order !== "none") sorted.sort((a, b) => compare(value(a[0], column), value(b[0], column), sign));
      body.append(...top, ...sorted.flat());
    }
  }
}

function items(body) {
  const found = [];
  for (const row of body.rows) {
    if (row.classList.contains("group")) continue;
    if (row.classList.contains("gap") && found.length) found.at(-1).push(row);
    else found.push([row]);
  }
  return found;
}

function value(row, column) {
  const text = row.cells[column]?.dataset.value;
  return text === undefined ? null : Number(text);
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // missing ones come last
  return sign * (a - b);
}
