// Verdicts by feature and dtype: a table of coloured fields, each of which leads to its cases.

/** Counts of a field: cases, failures, open and declined ones. */
const tallied = (indices, failsAt) => {
  const field = { cases: indices.length, failed: 0, open: 0, declined: 0, indices };
  for (const index of indices) {
    const tone = toneOf(CASES.verdict[index]);
    if (failsAt(index)) field.failed += 1;
    else if (tone === "warn") field.open += 1;
    else if (tone === "quiet") field.declined += 1;
  }
  return field;
};

const isFailure = (index) => toneOf(CASES.verdict[index]) === "fail";
const listed = (text) => (text ? text.split("|") : []);

/** The rows of the map as [group, label, Map of dtype to field]. */
const heatRows = (indices, byOperation) => {
  const groups = new Map();
  const put = (group, label, index, fails) => {
    const key = `${group}\u0000${label}`;
    if (!groups.has(key)) groups.set(key, { group, label, dtypes: new Map(), fails });
    const { dtypes } = groups.get(key);
    const dtype = CASES.dtype[index];
    if (!dtypes.has(dtype)) dtypes.set(dtype, []);
    dtypes.get(dtype).push(index);
  };
  for (const index of indices) {
    if (byOperation) put("operation", CASES.op[index], index, isFailure);
    else {
      put("all", "all cases", index, isFailure);
      for (const tensor of listed(CASES.outputs[index])) put("tensor", tensor, index, (at) => listed(CASES.failing[at]).includes(tensor));
      for (const feature of featuresOf(index)) {
        const [group, label] = feature.split(/: (.*)/s);
        put(group, label, index, isFailure);
      }
    }
  }
  const order = ["all", "operation", "tensor", "option", "regime"];
  const rank = (group) => (order.indexOf(group) + order.length + 1) % (order.length + 1);
  const rows = [...groups.values()].map(({ group, label, dtypes, fails }) => ({ group, label, fields: new Map([...dtypes].map(([dtype, found]) => [dtype, tallied(found, fails)])) }));
  return rows.sort((a, b) => rank(a.group) - rank(b.group) || a.group.localeCompare(b.group));
};

const fieldWords = (field) => {
  const said = [[field.failed, "fail"], [field.open, "open"], [field.declined, "declined"]].filter(([count]) => count).map(([count, word]) => `${whole(count)} ${word}`);
  return said.length ? `${said.join(", ")} of ${whole(field.cases)}` : `${whole(field.cases)} pass`;
};

const fieldTone = (field) => (field.failed ? "fail" : field.open ? "warn" : field.declined === field.cases ? "quiet" : "pass");

const heatField = (label, dtype, field) => {
  if (!field) return make("td", {}, make("span", { class: "none" }, MISSING));
  const go = () => {
    location.hash = "cases";
    const kept = new Set(field.indices);
    openPart("cases").restrict(`${label}, ${dtype}`, (index) => kept.has(index));
  };
  return make("td", {}, make("button", { type: "button", class: `field ${fieldTone(field)}`, title: `${label}, ${dtype}: show these cases`, onclick: go }, fieldWords(field)));
};

const heatTable = (indices, byOperation) => {
  const rows = heatRows(indices, byOperation);
  const found = new Set(indices.map((index) => CASES.dtype[index]));
  const dtypes = dtypeScales(found).color.domain;
  const head = make("tr", {}, make("th", { scope: "col" }, byOperation ? "operation" : "feature"), ...dtypes.map((dtype) => make("th", { scope: "col" }, dtype)));
  const body = make("tbody");
  let group = null;
  for (const row of rows) {
    if (!byOperation && row.group !== group && row.group !== "all") body.append(make("tr", { class: "group" }, make("th", { scope: "colgroup", colspan: dtypes.length + 1 }, row.group)));
    group = row.group;
    body.append(make("tr", {}, make("th", { scope: "row" }, ...ofName(row.label)), ...dtypes.map((dtype) => heatField(row.label, dtype, row.fields.get(dtype)))));
  }
  return make("table", { class: "map" }, make("caption", { class: "sr" }, "Verdicts by feature and dtype"), make("thead", {}, head), body);
};

const heatFigure = (place) => {
  const note = make("p", { class: "note" });
  const scroll = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": "plot-map" });
  place.append(make("figure", { class: "heat" }, make("h3", { id: "plot-map" }, "Verdicts"), note, scroll));
  return (indices, op) => {
    note.textContent = op ? "By feature and dtype. A field leads to its cases." : "By operation and dtype; choose an operation to see its features. A field leads to its cases.";
    scroll.replaceChildren(heatTable(indices, !op));
  };
};
