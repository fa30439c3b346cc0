// Rows and what opens below them.

const copyBlock = (label, text) => {
  const block = make("pre", { tabindex: "0" }, text);
  const button = make("button", { type: "button", class: "quiet-button" }, "Copy");
  button.addEventListener("click", () => {
    const selection = getSelection();
    selection.selectAllChildren(block);
    const done = () => {
      button.textContent = "Copied";
      say(`${label} copied`);
      setTimeout(() => (button.textContent = "Copy"), 1500);
    };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, () => document.execCommand("copy") && done());
    else if (document.execCommand("copy")) done();
  });
  return [make("div", { class: "label" }, make("span", {}, label), button), block];
};

/** What stands behind a failure: sentences, command, case, origin, traceback. */
const failureDetails = ([sentences, reproduction, text, origin, traceback]) => [
  ...sentences.map((sentence) => make("p", {}, sentence)),
  ...copyBlock("Run it again", reproduction),
  ...copyBlock("Case", text),
  ...(traceback ? [make("div", { class: "label" }, "Traceback"), make("pre", { tabindex: "0" }, traceback)] : []),
  make("p", { class: "origin" }, origin),
];

const rowLink = (anchor) => make("a", { class: "link", href: `#${anchor}`, "aria-label": "Link to this row" }, "#");

/** The button that opens what is below a row. */
const expander = (row, detailsOf, span) => {
  const button = make("button", { type: "button", class: "expander", "aria-expanded": "false", "aria-label": "Details" });
  let below = null;
  const toggle = (open) => {
    if (open && below === null) {
      const inner = make("div", { class: "why" }, ...detailsOf());
      below = make("tr", { class: "below" }, make("td", { colspan: span }, inner));
      below.id = `${row.id}-details`;
      row.after(below);
      button.setAttribute("aria-controls", below.id);
    }
    if (below) below.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => toggle(button.getAttribute("aria-expanded") !== "true"));
  row.open = () => toggle(true);
  return button;
};

/** A row of a table: its values, its anchor, and a button where something stands behind it. */
const makeRow = (table, index) => {
  const row = make("tr", { id: `${table.name}-${table.anchors[index]}` });
  table.columns.forEach(([label, kind], column) => {
    const shape = KINDS[kind];
    const link = kind === "ratio" && table.links ? table.links[index] : null;
    const content = shape.show(table.values[column][index], link, label);
    const attributes = { class: shape.number ? "n" : shape.wide ? "wide" : kind === "text" ? "name" : null };
    if (column > 0) return row.append(make("td", attributes, ...content));
    const opens = table.detailsOf && table.detailsOf(index);
    const first = make("th", { ...attributes, scope: "row" });
    first.append(opens ? expander(row, opens, table.columns.length) : "", ...content, " ", rowLink(row.id));
    return row.append(first);
  });
  return row;
};
