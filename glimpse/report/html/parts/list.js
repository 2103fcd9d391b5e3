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

  // Numbers count as numbers: with sign and decimals where they stand alone, as in "count -1.47", and else, as in
  // "slide-12", by their digits. Older browsers do not know lookbehinds: one would keep the whole script from running.
  const NUMBER = /(^|\s)([-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![^\s,;])|\d+/g;
  function parts(text) { // text, number, text, ..., number, text
    const found = [];
    let end = 0;
    for (const match of text.matchAll(NUMBER)) {
      const [whole, before, alone] = match;
      found.push(text.slice(end, match.index) + (before ?? ""), alone ?? whole);
      end = match.index + whole.length;
    }
    return [...found, text.slice(end)];
  }
  function compare(a, b) {
    const [one, other] = [parts(a), parts(b)];
    for (let i = 0; i < Math.min(one.length, other.length); i += 1) {
      const found = i % 2
        ? Number(one[i].replace("−", "-")) - Number(other[i].replace("−", "-"))
        : one[i].localeCompare(other[i]);
      if (found) return found;
    }
    return one.length - other.length;
  }

  const FEW = 50; // of more values nobody chooses one from a list; nor where nearly each case has its own
  for (const select of chosen) {
    const values = [...new Set(rows.map((row) => row.dataset[select.dataset.filter]))].filter(Boolean);
    values.sort(compare);
    for (const value of values) select.append(new Option(value, value));
    const own = values.length > 5 && values.length > rows.length / 2;
    select.parentElement.hidden = values.length < 2 || values.length > FEW || own;
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
    const order = (a, b) => { // what is not known comes last, in either direction
      if (a === b) return 0;
      if (a === "" || b === "") return a === "" ? 1 : -1;
      return (numeric ? Number(a) - Number(b) : compare(a, b)) * (down ? -1 : 1);
    };
    rows.sort((a, b) => order(key(a), key(b)));
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
