"use strict";
// Heads become buttons that sort a table by their column, within each of its groups; a difference
// stays under its row. A third press brings the given order back.
// A table that is wider than its box says so.
for (const table of document.querySelectorAll("table.results")) {
  const heads = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies].map((body) => ({
    body,
    top: [...body.rows].filter((row) => row.classList.contains("group")),
    items: items(body),
  }));
  heads.forEach((head, column) => {
    if (!head.classList.contains("sorts")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, column));
    head.append(button);
    head.setAttribute("aria-sort", "none");
  });
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    const place = table.closest(".holder")?.querySelector("output.source");
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

for (const box of document.querySelectorAll(".holder > .wide")) {
  const hint = box.parentElement.querySelector(".hint");
  const watch = new ResizeObserver(() => {
    hint.style.display = box.scrollWidth > box.clientWidth + 1 ? "block" : "none";
  });
  watch.observe(box);
}

function items(body) {
  const found = [];
  for (const row of body.rows) {
    if (row.classList.contains("group")) continue;
    if (row.classList.contains("difference") && found.length) found.at(-1).push(row);
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
