// The frame of a plot: title, drawing that follows its width, tips for mouse and keyboard, and the numbers as a table.

const DTYPES = ["float64", "float32", "bfloat16", "float16"];
const DTYPE_COLOURS = ["var(--c4)", "var(--c1)", "var(--c2)", "var(--c3)"];
const DTYPE_SYMBOLS = ["diamond", "circle", "square", "triangle"];
const dtypeScales = (dtypes) => {
  const known = [...DTYPES.filter((name) => dtypes.has(name)), ...[...dtypes].filter((name) => !DTYPES.includes(name)).sort()];
  const at = (list, name) => list[DTYPES.indexOf(name)] ?? list[0];
  return {
    color: { domain: known, range: known.map((name) => (DTYPES.includes(name) ? at(DTYPE_COLOURS, name) : "var(--muted)")) },
    symbol: { domain: known, range: known.map((name) => at(DTYPE_SYMBOLS, name)) },
  };
};

/** How every plot looks: no chrome, the font of the page, labels that a reader can read. */
const look = (width, rest) => ({
  width,
  style: { background: "transparent", color: "var(--muted)", fontFamily: "inherit", fontSize: "12px", overflow: "visible" },
  ...rest,
});

const simpleTable = (caption, columns, rows) =>
  make(
    "table", { class: "plain" }, make("caption", { class: "sr" }, caption),
    make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, column) => (column ? make("td", {}, cell) : make("th", { scope: "row" }, cell)))))),
  );

class Chart {
  /** Options: name, title; and of the drawing: about, points, draw(width), describe(point), where(point), go(point), table. */
  constructor(place, name, title) {
    this.title = make("h3", { id: `plot-${name}` }, title);
    this.about = make("p", { class: "note" });
    this.legend = make("ul", { class: "legend" });
    this.stage = make("div", { class: "stage", tabindex: "0", role: "group", "aria-roledescription": "plot", "aria-labelledby": `plot-${name}` });
    this.numbers = make("details", { class: "numbers" }, make("summary", {}, "The numbers as a table"));
    this.numbers.addEventListener("toggle", () => this.tabulate());
    this.figure = make("figure", { class: name }, this.title, this.about, this.legend, this.stage, this.numbers);
    place.append(this.figure);
    this.at = -1;
    this.stage.addEventListener("keydown", (event) => this.step(event));
    this.stage.addEventListener("blur", () => this.drawing?.dispatchEvent(new PointerEvent("pointerleave")));
    this.stage.addEventListener("click", () => this.drawing?.value && this.follow(this.drawing.value));
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.appear(), { rootMargin: "300px" }).observe(this.figure);
    new ResizeObserver(() => this.width !== this.stage.clientWidth && this.seen && this.redraw()).observe(this.stage);
  }

  appear() {
    if (this.seen) return;
    this.seen = true;
    if (this.options) this.redraw();
  }

  show(options) {
    this.options = options;
    this.at = -1;
    this.about.textContent = options.about;
    this.stage.setAttribute("aria-label", `${this.title.textContent}. ${options.about} Arrow keys go from point to point.`);
    this.legend.replaceChildren(...(options.legend ?? []).map(([text, style, mark]) => make("li", { style: `--swatch:${style}`, class: mark ?? null }, text)));
    if (this.seen) this.redraw();
    this.tabulate();
  }

  redraw() {
    this.width = this.stage.clientWidth;
    if (!this.width || !this.options) return;
    this.drawing = this.options.points.length ? this.options.draw(this.width) : null;
    this.drawing?.setAttribute("aria-hidden", "true");
    this.stage.replaceChildren(this.drawing ?? make("p", { class: "empty" }, "Nothing to draw here."));
  }

  tabulate() {
    if (!this.numbers.open || !this.options) return;
    const { columns, rows } = this.options.table();
    const place = make("div", { class: "scroll", tabindex: "0" }, simpleTable(this.title.textContent, columns, rows));
    this.numbers.replaceChildren(this.numbers.firstElementChild, place);
  }

  /** Goes to the next point by the arrow keys, shows its tip and says it; Enter follows it. */
  step(event) {
    const count = this.options?.points.length ?? 0;
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Enter" && this.at >= 0) return this.follow(this.options.points[this.at]);
    if (!(event.key in moves) || !count || !this.drawing) return undefined;
    event.preventDefault();
    this.at = (this.at + moves[event.key] + count + (this.at < 0 && moves[event.key] < 0 ? 1 : 0)) % count;
    const point = this.options.points[this.at];
    const [x, y] = this.options.where(point, this.drawing);
    const box = this.drawing.getBoundingClientRect();
    const scale = box.width / this.width;
    this.drawing.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x * scale, clientY: box.top + y * scale, pointerType: "mouse", bubbles: true }));
    say(`${this.options.describe(point)} (${this.at + 1} of ${count})`);
    return undefined;
  }

  follow(point) {
    const anchor = this.options.go?.(point);
    if (anchor) location.hash = anchor;
  }
}
