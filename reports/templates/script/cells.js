// One cell of each kind: what is shown, by what it is sorted, and what a filter finds in it.

const badge = (text, verdict = text) => make("span", { class: `badge ${toneOf(verdict)}` }, text);

/** A bar behind a ratio: full at the tolerance, so that what is close to it can be seen without reading. */
const ratioCell = (value, link) => {
  const given = toNumber(value);
  const text = figure(value);
  const shown = link ? make("a", { href: `#${link}` }, text) : make("span", {}, text);
  if (given === null) return [shown];
  const share = Number.isFinite(given) ? Math.min(1, Math.abs(given)) : 1;
  return [shown, make("span", { class: given > 1 ? "meter over" : "meter", style: `--share:${share.toFixed(3)}`, "aria-hidden": "true" })];
};

const interval = (pair, format) => (pair === null ? MISSING : `${format(pair[0])} to ${format(pair[1])}`);
const ofText = (value) => [value === null || value === "" ? MISSING : value];

/** Names may break after an underscore. */
const ofName = (value) => {
  if (value === null || value === "") return [MISSING];
  return value.split(/(?<=[_/])/).flatMap((part, index) => (index ? [make("wbr"), part] : [part]));
};

const KINDS = {
  text: { show: ofName },
  sentence: { show: ofText, wide: true },
  count: { show: (value) => [whole(value)], number: true },
  figure: { show: (value) => [figure(value)], number: true },
  percent: { show: (value) => [percent(value)], number: true },
  ratio: { show: ratioCell, number: true },
  interval: { show: (value, _, label) => [interval(value, label.includes("%") ? percent : figure)], number: true },
  verdict: { show: (value) => (value === null ? [MISSING] : [badge(value)]) },
  tally: {
    show: (value) =>
      (value ?? "").split(", ").filter(Boolean).flatMap((item, index) => (index ? [" ", badge(item)] : [badge(item)])),
  },
};

/** What a cell is sorted by: a number, a text, the gravity of a verdict; null for an empty one. */
const sortKey = (value, kind) => {
  if (value === null || value === undefined || value === "") return null;
  if (kind === "interval") return toNumber(value[0]);
  if (kind === "verdict" && GRAVITY.includes(value)) return GRAVITY.indexOf(value);
  if (kind === "tally") return Math.max(...value.split(", ").map((item) => GRAVITY.indexOf(item.split(" ")[0])));
  if (!KINDS[kind].number) return value;
  const given = toNumber(value);
  return Number.isNaN(given) ? Infinity : given;
};

/** Order of two keys; an empty cell comes last in both directions. */
const ordered = (left, right, sign) => {
  if (left === right) return 0;
  if (left === null) return 1;
  if (right === null) return -1;
  return sign * (typeof left === "number" ? left - right : left.localeCompare(right, undefined, { numeric: true }));
};
