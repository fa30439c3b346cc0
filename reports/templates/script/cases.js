// All records: their cases as text again, the command that runs one again, and what a case has that others lack.

const unpackCases = (packed) => {
  const names = ["verdict", "op", "candidate", "dtype", "outputs", "failing", "tokens", "quoted", "broken", "ratio", "output", "failure"];
  const cases = Object.fromEntries(names.map((name) => [name, unpack(packed[name])]));
  return { ...packed, ...cases, ratio: cases.ratio.map(toNumber), lines: packed.cases };
};

const CASES = DATA.cases ? unpackCases(DATA.cases) : null;

/** The fields of a record's case as [name, JSON text]. */
const fieldsOf = (index) => {
  const [layout, ...values] = CASES.lines[CASES.case[index]];
  return CASES.layouts[layout].map((name, position) => [name, CASES.values[values[position]]]);
};

const caseJson = (index) => `{${fieldsOf(index).map(([name, text]) => `${JSON.stringify(name)}: ${text}`).join(", ")}}`;

/** A word of a shell command, as Python's shlex.quote makes it. */
const shellWord = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

const replayCommand = (index) => {
  const relations = CASES.broken[index] ? ` --relations ${shellWord(CASES.broken[index])}` : "";
  return `attest replay ${shellWord(caseJson(index))} --candidate ${CASES.quoted[index]}${relations}`;
};

const settingsOf = function* (entries) {
  for (const [name, value] of entries) {
    if (["op", "schema", "seed", "dtype"].includes(name) || value === null) continue;
    if (Array.isArray(value)) yield `${name} (${value.join(", ")})`;
    else if (typeof value === "object") yield* settingsOf(Object.entries(value));
    else if (typeof value === "boolean") yield `${name} ${value ? "yes" : "no"}`;
    else yield `${name} ${value}`;
  }
};

const shapeOf = (index) => [...settingsOf(fieldsOf(index).map(([name, text]) => [name, JSON.parse(text)]))].join(", ");

/** The value of a text field such as the regime, or null. */
const wordOf = (index, field) => {
  const found = fieldsOf(index).find(([name]) => name === field);
  const value = found ? JSON.parse(found[1]) : null;
  return typeof value === "string" ? value : null;
};

/** What a case has that others of its operation lack: options that are on, words, and tensors that were compared. */
const featuresOf = (index) => {
  const features = [];
  for (const [name, text] of fieldsOf(index)) {
    if (["op", "schema", "seed", "dtype"].includes(name)) continue;
    const value = JSON.parse(text);
    if (value === true) features.push(`option: ${name}`);
    else if (typeof value === "string") features.push(`${name}: ${value}`);
    else if (name.startsWith("window") && value !== null) features.push(`option: ${name}`);
    else if (name === "group" && value > 1) features.push("option: group > 1");
    else if (name === "scale" && value !== null) features.push("option: scale");
  }
  return features;
};

const caseTable = (place) => {
  const count = CASES.anchors.length;
  const all = (read) => Array.from({ length: count }, (_, index) => read(index));
  const data = {
    name: "cases", title: CASES.title, columns: CASES.columns, anchors: CASES.anchors,
    values: [CASES.verdict, CASES.op, CASES.candidate, CASES.dtype, CASES.ratio, CASES.output, CASES.tokens, all((index) => wordOf(index, "regime")), all(shapeOf)],
    links: CASES.failure,
    detailsOf: (index) => () => [...copyBlock("Run it again", replayCommand(index)), ...copyBlock("Case", caseJson(index))],
  };
  return new DataTable(place, data);
};
