// Puts the page together: tables, plots, theme, and links to rows.

const PLACES = new Map([...document.querySelectorAll(".table-place")].map((place) => [place.dataset.table, place]));

const buildTable = (name) => {
  if (TABLES.has(name)) return TABLES.get(name);
  const place = PLACES.get(name);
  if (!place) return null;
  if (name === "cases") return caseTable(place);
  const packed = DATA.tables[name];
  const data = { ...packed, values: packed.values.map(unpack), links: packed.links ? unpack(packed.links) : null };
  if (packed.details) data.detailsOf = (index) => (index < packed.details.length ? () => failureDetails(packed.details[index]) : null);
  return new DataTable(place, data);
};

/** Opens the part that holds a table and returns the table. */
const openPart = (name) => {
  const part = document.getElementById(name)?.querySelector("details.part");
  if (part) part.open = true;
  return buildTable(name);
};

/** Follows the address: opens the part, brings the row to the eye, opens what is below it. */
const openTarget = () => {
  for (const marked of document.querySelectorAll("tr.target")) marked.classList.remove("target");
  let anchor;
  try {
    anchor = decodeURIComponent(location.hash.slice(1));
  } catch {
    return;
  }
  const name = anchor.split("-")[0];
  if (!PLACES.has(name)) return;
  const table = openPart(name);
  if (anchor === name) return void document.getElementById(name).scrollIntoView();
  if (!table?.index.has(anchor)) return;
  const row = table.reveal(anchor);
  row.classList.add("target");
  row.open?.();
  row.scrollIntoView({ behavior: "instant", block: "center", inline: "start" });
  row.querySelector(".expander, .link").focus({ preventScroll: true });
};

const chooser = (label, options, change) => {
  const select = make("select", { onchange: () => change() }, ...options.map(([value, text]) => make("option", { value }, text)));
  return [make("label", {}, make("span", {}, label), select), select];
};

const startPlots = () => {
  const section = document.getElementById("plots");
  const columns = Object.entries(DATA.speed).map(([name, column]) => [name, unpack(column)]);
  const times = columns.length ? columns[0][1].map((_, index) => Object.fromEntries(columns.map(([name, values]) => [name, values[index]]))) : [];
  if (!section || !(CASES || times.length)) return;
  section.hidden = false;
  const place = document.getElementById("plot-place");
  const names = (values) => [...new Set(values)].sort();
  const all = CASES ? CASES.anchors.map((_, index) => index) : [];
  const points = all.filter((index) => CASES.ratio[index] !== null).map((index) => ({
    index, op: CASES.op[index], candidate: CASES.candidate[index], dtype: CASES.dtype[index], tokens: CASES.tokens[index],
    ratio: CASES.ratio[index], drawn: clipped(CASES.ratio[index]), verdict: CASES.verdict[index],
  }));
  const subjects = CASES ? all.map((index) => ({ op: CASES.op[index], candidate: CASES.candidate[index] })) : times;
  const heat = CASES ? heatFigure(place) : null;
  const spread = CASES ? new Chart(place, "spread", "Spread of the errors") : null;
  const growth = CASES ? new Chart(place, "growth", "Error against length") : null;
  const speed = times.length ? new Chart(place, "speed", "Speed against size") : null;
  const update = () => {
    const within = (item) => (!ops.value || item.op === ops.value) && (!candidates.value || item.candidate === candidates.value);
    const some = points.filter(within);
    heat?.(all.filter((index) => within(subjects[index])), ops.value);
    spread?.show(spreadOptions(some));
    growth?.show(growthOptions(some));
    speed?.show(speedOptions(times.filter(within)));
  };
  const offer = () => {
    const kept = candidates.value;
    const fitting = names(subjects.filter((item) => !ops.value || item.op === ops.value).map((item) => item.candidate));
    candidates.replaceChildren(make("option", { value: "" }, `All ${fitting.length} candidates`), ...fitting.map((name) => make("option", { value: name }, name)));
    candidates.value = fitting.includes(kept) ? kept : "";
    update();
  };
  const operations = names(subjects.map((item) => item.op));
  const [opLabel, ops] = chooser("Operation", [["", `All ${operations.length} operations`], ...operations.map((name) => [name, name])], offer);
  const [candidateLabel, candidates] = chooser("Candidate", [["", "All candidates"]], update);
  document.getElementById("plot-controls").append(opLabel, candidateLabel);
  offer();
};

const startTheme = () => {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const kept = (() => {
    try {
      return localStorage.getItem("attest-theme");
    } catch {
      return null;
    }
  })();
  const set = (theme) => {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    try {
      localStorage.setItem("attest-theme", theme);
    } catch {
      // A page opened from a file may have no storage; the choice then lasts as long as the page.
    }
  };
  const themes = ["system", "light", "dark"];
  set(themes.includes(kept) ? kept : "system");
  button.hidden = false;
  button.addEventListener("click", () => set(themes[(themes.indexOf(root.dataset.theme ?? "system") + 1) % themes.length]));
};

startTheme();
for (const [name, place] of PLACES) {
  const part = place.closest("details.part");
  if (part.open) buildTable(name);
  part.addEventListener("toggle", () => part.open && buildTable(name));
}
startPlots();
addEventListener("hashchange", openTarget);
openTarget();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
