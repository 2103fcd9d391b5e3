"use strict";
// Sorts and filters the list of cases.
(() => {
  const table = document.getElementById("cases-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const search = document.getElementById("search");
  const chosen = [...document.querySelectorAll("select[data-filter]")];
  const count = document.getElementById("count");

  for (const select of chosen) {
    const values = [...new Set(rows.map((row) => row.dataset[select.dataset.filter]))].filter(Boolean);
    values.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    for (const value of values) select.append(new Option(value, value));
    select.parentElement.hidden = values.length < 2 || values.length > 200;
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.dataset.text.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits || chosen.some((one) => one.value && row.dataset[one.dataset.filter] !== one.value);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? `${rows.length} cases` : `${shown} of ${rows.length} cases`;
  }

  function sort(header) {
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const numeric = header.classList.contains("number");
    const order = (a, b) => {
      if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
      return a === b ? 0 : a === "" ? 1 : b === "" ? -1 : Number(a) - Number(b);
    };
    rows.sort((a, b) => order(key(a), key(b)) * (down ? -1 : 1));
    body.append(...rows);
  }

  search.addEventListener("input", filter);
  for (const select of chosen) select.addEventListener("change", filter);
  for (const button of table.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }
  filter();
  // In the order of the list, for those who go on to the next case.
  window.glimpseOrder = () => rows.filter((row) => !row.hidden && row.dataset.page).map((row) => row.dataset.page);
})();
