"use strict";
(() => {
  const MISSING = "–";

  /** The text of a cell without its row link and without what opens below it. */
  const textOf = (cell) =>
    [...cell.childNodes]
      .filter((node) => !(node.classList && (node.classList.contains("link") || node.classList.contains("why"))))
      .map((node) => node.textContent)
      .join("")
      .trim();

  /** A number as the page writes it: thousands with commas, a true minus, ∞; what is no number counts as largest. */
  const numberOf = (text) => {
    if (text === MISSING || text === "") return null;
    const value = parseFloat(text.replace(/,/g, "").replace(/−/g, "-").replace("∞", "Infinity"));
    return Number.isNaN(value) ? Infinity : value;
  };

  const compare = (left, right) => {
    if (left === right) return 0;
    if (left === null) return 1;
    if (right === null) return -1;
    return typeof left === "number" ? left - right : left.localeCompare(right, undefined, { numeric: true });
  };

  const sortBy = (table, header) => {
    const index = [...header.parentNode.children].indexOf(header);
    const numeric = header.classList.contains("n");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const direction = header.getAttribute("aria-sort") === first ? second : first;
    for (const other of header.parentNode.children) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const text = textOf(row.cells[index]);
      return { row, key: numeric ? numberOf(text) : text === MISSING || text === "" ? null : text };
    });
    keyed.sort((left, right) => {
      const missing = left.key === null || right.key === null;
      return compare(left.key, right.key) * (missing ? 1 : sign);
    });
    body.append(...keyed.map((item) => item.row));
  };

  const addFilter = (table, place, name) => {
    const rows = [...table.tBodies[0].rows];
    const label = document.createElement("label");
    label.textContent = "Filter ";
    const input = document.createElement("input");
    input.type = "search";
    input.setAttribute("aria-label", `Filter ${name}: rows that contain every word`);
    input.placeholder = "words in a row";
    label.append(input);
    const count = document.createElement("output");
    place.append(label, count);
    const contents = rows.map((row) => row.textContent.toLowerCase());
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        row.hidden = !words.every((word) => contents[index].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    };
    input.addEventListener("input", apply);
    table.showAll = () => {
      input.value = "";
      apply();
    };
  };

  const addCopy = (block) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = "Copy";
    button.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(block);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      const done = () => {
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      };
      if (navigator.clipboard) navigator.clipboard.writeText(block.textContent).then(done, () => {});
      else if (document.execCommand("copy")) done();
    });
    block.before(button);
  };

  /** Shows the row that the address names: no filter in its way, its explanation open. */
  const openTarget = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row || row.tagName !== "TR") return;
    const table = row.closest("table");
    if (row.hidden && table.showAll) table.showAll();
    const details = row.querySelector("details");
    if (details) details.open = true;
    row.scrollIntoView({ behavior: "instant", block: "center", inline: "start" });
  };

  for (const table of document.querySelectorAll("table.data")) {
    const name = document.getElementById(`${table.id.replace("table-", "")}-title`).firstChild.textContent.trim();
    addFilter(table, document.querySelector(`[data-for="${table.id}"]`), name);
    for (const header of table.tHead.rows[0].cells) {
      header.querySelector("button").addEventListener("click", () => sortBy(table, header));
    }
  }
  document.querySelectorAll("pre.copy").forEach(addCopy);
  addEventListener("hashchange", openTarget);
  openTarget();
})();
