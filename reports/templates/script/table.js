// A table that sorts, filters and links; its rows are made when they are looked at.

const STEP = 100;
const TABLES = new Map();

class DataTable {
  constructor(place, data) {
    Object.assign(this, data);
    this.place = place;
    this.order = this.anchors.map((_, index) => index);
    this.shown = STEP;
    this.pinned = null;
    this.sorted = { column: null, sign: 1 };
    this.words = "";
    this.only = null;
    this.index = new Map(this.anchors.map((anchor, index) => [`${this.name}-${anchor}`, index]));
    this.build();
    TABLES.set(this.name, this);
  }

  build() {
    const title = this.title;
    this.box = make("input", { type: "search", placeholder: "Filter: words in a row", "aria-label": `Filter ${title}: rows that contain every word`, oninput: () => this.filter(this.box.value) });
    this.count = make("output", {}, plural(this.anchors.length, "row"));
    this.chip = make("button", { type: "button", class: "chip", hidden: true, onclick: () => this.restrict(null) });
    const headers = this.columns.map(([label, kind], column) => {
      const button = make("button", { type: "button", onclick: () => this.sort(column) }, label);
      return make("th", { scope: "col", "aria-sort": "none", class: KINDS[kind].number ? "n" : null }, button);
    });
    this.head = make("tr", {}, ...headers);
    this.body = make("tbody");
    const table = make("table", { class: `data ${this.name}` }, make("caption", { class: "sr" }, title), make("thead", {}, this.head), this.body);
    table.id = `table-${this.name}`;
    const scroll = make("div", { class: "scroll", role: "region", "aria-labelledby": `${this.name}-title`, tabindex: "0" }, table);
    this.more = make("button", { type: "button", class: "quiet-button", onclick: () => this.grow(STEP) });
    this.all = make("button", { type: "button", class: "quiet-button", onclick: () => this.grow(Infinity) });
    this.foot = make("div", { class: "more" }, this.more, this.all);
    const tools = make("div", { class: "tools" }, this.box, this.chip, this.count);
    if (this.anchors.length < 2) tools.hidden = true;
    this.place.replaceChildren(tools, scroll, this.foot);
    this.render();
  }

  text(index) {
    this.texts ??= [];
    return (this.texts[index] ??= this.columns
      .map(([label, kind], column) => {
        const value = this.values[column][index];
        if (kind === "interval") return interval(value, label.includes("%") ? percent : figure);
        return KINDS[kind].number ? figure(value) : (value ?? "");
      })
      .join(" ")
      .toLowerCase());
  }

  filter(words) {
    this.words = words.toLowerCase();
    this.apply();
  }

  /** Shows only the rows that a plot asked for, until the chip is pressed. */
  restrict(label, test = null) {
    this.only = test;
    this.chip.hidden = test === null;
    this.chip.replaceChildren(...(test === null ? [] : [label, " ×"]));
    this.chip.setAttribute("aria-label", `Remove the restriction to ${label}`);
    this.apply();
  }

  apply() {
    const words = this.words.split(/\s+/).filter(Boolean);
    const kept = this.anchors.map((_, index) => index).filter(
      (index) => (!this.only || this.only(index)) && (!words.length || words.every((word) => this.text(index).includes(word))),
    );
    const { column, sign } = this.sorted;
    if (column !== null) {
      const kind = this.columns[column][1];
      const keys = this.values[column].map((value) => sortKey(value, kind));
      kept.sort((left, right) => ordered(keys[left], keys[right], sign));
    }
    this.order = kept;
    this.pinned = null;
    this.shown = STEP;
    const total = this.anchors.length;
    this.count.textContent = kept.length === total ? plural(total, "row") : `${whole(kept.length)} of ${plural(total, "row")}`;
    this.render();
  }

  sort(column) {
    const kind = this.columns[column][1];
    const gravestFirst = KINDS[kind].number || kind === "verdict" || kind === "tally";
    const again = this.sorted.column === column;
    this.sorted = { column, sign: again ? -this.sorted.sign : gravestFirst ? -1 : 1 };
    [...this.head.cells].forEach((cell, number) => {
      const direction = this.sorted.sign > 0 ? "ascending" : "descending";
      cell.setAttribute("aria-sort", number === column ? direction : "none");
    });
    this.apply();
    say(`${this.title} sorted by ${this.columns[column][0]}, ${this.sorted.sign > 0 ? "ascending" : "descending"}`);
  }

  grow(count) {
    this.shown += count;
    this.render();
  }

  render() {
    const rows = this.order.slice(0, this.shown);
    if (this.pinned !== null && !rows.includes(this.pinned)) rows.unshift(this.pinned);
    this.body.replaceChildren(...rows.map((index) => makeRow(this, index)));
    const left = this.order.length - this.shown;
    this.foot.hidden = left <= 0;
    this.more.textContent = `Show ${Math.min(STEP, left)} more`;
    this.all.textContent = `Show all ${whole(this.order.length)}`;
    this.all.hidden = left <= STEP;
  }

  /** Brings a row to the eye: no filter in its way, and first where it would not have been made yet. */
  reveal(anchor) {
    const index = this.index.get(anchor);
    if (!this.order.includes(index)) {
      this.box.value = "";
      this.words = "";
      this.restrict(null);
    }
    if (!this.order.slice(0, this.shown).includes(index)) {
      this.pinned = index;
      this.render();
    }
    return document.getElementById(anchor);
  }
}
