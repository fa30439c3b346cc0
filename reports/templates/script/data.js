// The data of the page, and how numbers and elements are made of them. Text is only ever set as text.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MISSING = "–";

/** The values of a column that Python packed: a list, or numbers of texts. */
const unpack = (column) => (Array.isArray(column) ? column : column.i.map((number) => (number < 0 ? null : column.d[number])));

/** A number of JSON, or one of the words for numbers that JSON lacks. */
const toNumber = (value) => {
  if (value === null || value === undefined || typeof value === "number") return value ?? null;
  return { inf: Infinity, "-inf": -Infinity, nan: NaN }[value] ?? null;
};

/** Three significant digits: 0.0123, 1,230, 1.23e-7, ∞, or a dash; the same as reports/text.py. */
const figure = (value) => {
  const given = toNumber(value);
  if (given === null) return MISSING;
  if (Number.isNaN(given)) return "nan";
  if (!Number.isFinite(given)) return given > 0 ? "∞" : "−∞";
  if (given === 0) return "0";
  const [mantissa, exponent] = given.toExponential(2).split("e");
  const power = Number(exponent);
  const digits = Math.max(0, 2 - power);
  const text =
    power > -4 && power < 6
      ? given.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })
      : `${mantissa}e${power}`;
  return text.replace("-", given < 0 ? "−" : "-");
};

const percent = (value) => {
  const given = toNumber(value);
  return figure(given === null ? null : 100 * given);
};

const whole = (value) => (value === null || value === undefined ? MISSING : value.toLocaleString("en-US"));
const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

/** An element with attributes and children; strings become text. */
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

const say = (text) => {
  document.getElementById("said").textContent = text;
};

const GRAVITY = [
  "PASS", "NO_POWER", "UNSUPPORTED", "AMBIGUOUS", "FAIL_RELATION", "FAIL_NUMERIC", "FAIL_NONFINITE", "FAIL_DTYPE",
  "FAIL_SHAPE", "TIMEOUT", "ERROR",
];

/** How a verdict, an outcome or a comparison is coloured. */
const toneOf = (verdict) => {
  if (/^(FAIL|ERROR|TIMEOUT|SLOWER|BEYOND|survivor)/.test(verdict)) return "fail";
  if (/^(PASS|FASTER|WITHIN|caught)/.test(verdict)) return "pass";
  if (/^(AMBIGUOUS|NO_POWER|unreached)/.test(verdict)) return "warn";
  return "quiet";
};
