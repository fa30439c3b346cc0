// The plots of the records: error against length, spread of the errors, speed against size.

const LOWEST = 1e-3, HIGHEST = 1e3;
/** As many candidates as fill the column beside two other plots; on a phone, where nothing stands beside it, fewer. */
const candidatesDrawn = () => (innerWidth < 641 ? 20 : 36);
const clipped = (ratio) => (Number.isNaN(ratio) ? HIGHEST : Math.min(HIGHEST, Math.max(LOWEST, ratio)));
const ratioTick = (ratio) => (ratio <= LOWEST ? `≤ ${LOWEST}` : ratio >= HIGHEST ? `≥ ${HIGHEST.toLocaleString("en-US")}` : String(+ratio.toPrecision(3)));
const lengthTick = (length) => (length >= 1 ? length.toLocaleString("en-US") : "");
const quantile = (sorted, share) => d3.quantileSorted(sorted, share);
const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

const dtypeLegend = (points) => {
  const scales = dtypeScales(new Set(points.map((point) => point.dtype)));
  return scales.color.domain.map((name, index) => [name, scales.color.range[index], scales.symbol.range[index]]);
};

const ratioDomain = (ratios) => [Math.min(0.1, d3.min(ratios)) / 1.3, Math.max(1, d3.max(ratios)) * 1.8];
const tolerance = (side) => (side === "x" ? Plot.ruleX : Plot.ruleY)([1], { stroke: "var(--fail)", strokeDasharray: "4 3", strokeWidth: 1.2 });
const tip = (points, x, y, describe) =>
  Plot.tip(points, Plot.pointer({ x, y, title: describe, maxRadius: 40, fill: "var(--paper)", stroke: "var(--rule)", lineWidth: 22, fontSize: 12 }));
/** Powers of ten within a domain: a grid of few lines. */
const decades = ([low, high]) => d3.range(Math.ceil(Math.log10(low)), Math.floor(Math.log10(high)) + 1).map((power) => 10 ** power);
const scaleOf = (drawing, name, value) => drawing.scale(name).apply(value);

const caseWords = (point) =>
  `${point.candidate}\n${point.op}, ${point.dtype}\n${plural(point.tokens ?? 0, "token")}, ${CASES.output[point.index]}\n${figure(point.ratio)} of the tolerance: ${point.verdict}`;

/** Error against length. */
const growthOptions = (points) => {
  const drawn = points.filter((point) => point.tokens > 0).sort((a, b) => a.tokens - b.tokens || a.drawn - b.drawn);
  const scales = dtypeScales(new Set(drawn.map((point) => point.dtype)));
  const beyond = drawn.filter((point) => point.ratio > 1).length;
  const span = ratioDomain(drawn.map((point) => point.drawn));
  return {
    about: `Largest |error| / tolerance of ${plural(drawn.length, "case")}; above the dashed line it fails (${whole(beyond)}).`,
    legend: dtypeLegend(drawn), points: drawn, describe: caseWords,
    go: (point) => `cases-${CASES.anchors[point.index]}`,
    where: (point, drawing) => [scaleOf(drawing, "x", point.tokens), scaleOf(drawing, "y", point.drawn)],
    draw: (width) =>
      Plot.plot(look(width, {
        height: 300, marginLeft: 46, marginBottom: 38, marginTop: 22,
        x: { type: "log", base: 2, label: "query tokens →", tickFormat: lengthTick, ticks: Math.min(8, width / 60), nice: true },
        y: { type: "log", label: "↑ |error| / tolerance", domain: span, tickFormat: ratioTick, ticks: decades(span), grid: true },
        ...scales,
        marks: [
          tolerance("y"),
          Plot.dot(drawn, { x: "tokens", y: "drawn", stroke: "dtype", symbol: "dtype", r: 3, strokeWidth: 1.2, strokeOpacity: drawn.length > 800 ? 0.45 : 0.75 }),
          Plot.dot(drawn.filter((point) => point.ratio > 1), { x: "tokens", y: "drawn", stroke: "var(--fail)", r: 6, strokeWidth: 1.5 }),
          tip(drawn, "tokens", "drawn", caseWords),
        ],
      })),
    table: () => {
      const groups = d3.rollups(drawn, (group) => [group.length, d3.median(group, (p) => p.ratio), d3.max(group, (p) => p.ratio)], (p) => 2 ** Math.floor(Math.log2(p.tokens)), (p) => p.dtype);
      const rows = groups.flatMap(([low, inner]) => inner.map(([dtype, [count, median, worst]]) => [low === 1 ? "1" : `${low} to ${2 * low - 1}`, dtype, whole(count), figure(median), figure(worst)]));
      return { columns: ["tokens", "dtype", "cases", "median ratio", "worst ratio"], rows };
    },
  };
};

/** Spread of the ratios of each candidate. */
const spreadOptions = (points) => {
  const rows = d3.groups(points, (point) => point.candidate).map(([candidate, group]) => {
    const ratios = group.map((point) => point.drawn).sort(d3.ascending);
    const [low, quarter, median, most, high] = [0, 0.25, 0.5, 0.75, 1].map((share) => quantile(ratios, share));
    return { candidate, low, quarter, median, most, high, cases: group.length, beyond: group.filter((point) => point.ratio > 1).length, dtype: group[0].dtype };
  });
  rows.sort((a, b) => b.high - a.high);
  const drawn = rows.slice(0, candidatesDrawn());
  const words = (row) => `${row.candidate}\n${plural(row.cases, "case")}, ${whole(row.beyond)} beyond the tolerance\nmedian ${figure(row.median)}, middle half ${figure(row.quarter)} to ${figure(row.most)}\nworst ${row.high >= HIGHEST ? "≥ 1,000" : figure(row.high)}`;
  const names = new Set(drawn.map((row) => row.candidate));
  const wide = ratioDomain(drawn.flatMap((row) => [row.low, row.high]));
  const part = rows.length > drawn.length ? ` The worst ${drawn.length} of ${rows.length} candidates.` : "";
  return {
    about: `|error| / tolerance per candidate: every case, the middle half, the median; right of the dashed line fails.${part}`,
    legend: dtypeLegend(drawn), points: drawn, describe: words,
    go: () => "errors",
    where: (row, drawing) => [scaleOf(drawing, "x", row.median), scaleOf(drawing, "y", row.candidate) + drawing.scale("y").bandwidth / 2],
    draw: (width) => {
      const narrow = width < 430;
      const label = narrow ? { axis: null } : { label: null, tickFormat: (name) => shortened(name, 30), tickSize: 0 };
      return Plot.plot(look(width, {
        height: 52 + drawn.length * (narrow ? 34 : 22), marginLeft: narrow ? 8 : Math.min(200, 16 + 6.6 * Math.min(30, d3.max(drawn, (row) => row.candidate.length))), marginTop: 8, marginBottom: 38, marginRight: 16,
        x: { type: "log", label: "|error| / tolerance →", domain: wide, tickFormat: ratioTick, ticks: decades(wide), grid: true },
        y: { domain: drawn.map((row) => row.candidate), padding: 0.3, ...label },
        ...dtypeScales(new Set(points.map((point) => point.dtype))),
        marks: [
          tolerance("x"),
          Plot.tickX(points.filter((point) => names.has(point.candidate)), { x: "drawn", y: "candidate", stroke: "dtype", strokeOpacity: 0.28, insetTop: narrow ? 14 : 2, insetBottom: 2 }),
          Plot.barX(drawn, { x1: "quarter", x2: "most", y: "candidate", fill: "dtype", fillOpacity: 0.38, rx: 2, insetTop: narrow ? 16 : 4, insetBottom: 4 }),
          Plot.tickX(drawn, { x: "median", y: "candidate", stroke: "dtype", strokeWidth: 2.5, insetTop: narrow ? 14 : 2, insetBottom: 2 }),
          Plot.dot(drawn.filter((row) => row.beyond), { x: "high", y: "candidate", dy: narrow ? 6 : 0, stroke: "var(--fail)", r: 5, strokeWidth: 1.5 }),
          ...(narrow ? [Plot.text(drawn, { y: "candidate", text: (row) => shortened(row.candidate, 40), frameAnchor: "left", textAnchor: "start", dy: -8, fill: "var(--ink)" })] : []),
          tip(drawn, "median", "candidate", words),
        ],
      }));
    },
    table: () => ({
      columns: ["candidate", "cases", "beyond", "lowest", "median", "middle half", "worst"],
      rows: rows.map((row) => [row.candidate, whole(row.cases), whole(row.beyond), figure(row.low), figure(row.median), `${figure(row.quarter)} to ${figure(row.most)}`, figure(row.high)]),
    }),
  };
};

/** Speed against size, with the shortest time that the device allows where that is known. */
const speedOptions = (points) => {
  const drawn = points.filter((point) => point.tokens > 0 && point.median_us > 0).sort((a, b) => a.tokens - b.tokens || a.median_us - b.median_us);
  const floors = drawn.filter((point) => point.floor_us > 0);
  const words = (point) => `${point.candidate}\n${point.op}, ${point.dtype}, ${point.phase}\n${figure(point.median_us)} µs (${figure(point.low_us)} to ${figure(point.high_us)})${point.share ? `\n${percent(point.share)} % of the ceiling` : ""}`;
  const roof = floors.length ? "Dashed: the roofline, the shortest time that bandwidth and matrix rate allow." : "The roofline needs the measured ceilings of a GPU (python -m harness.gpu.benchmark).";
  const sizes = [...new Set(drawn.map((point) => point.tokens))];
  const lines = (point) => `${point.candidate}|${point.phase}`;
  return {
    about: `Median time of one call, ${plural(drawn.length, "time")}; filled: forward, hollow: with gradients. ${roof}`,
    legend: [...dtypeLegend(drawn), ...(floors.length ? [["roofline", "var(--ink)", "dash"]] : [])], points: drawn, describe: words,
    go: () => "speed",
    where: (point, drawing) => [scaleOf(drawing, "x", point.tokens), scaleOf(drawing, "y", point.median_us)],
    draw: (width) =>
      Plot.plot(look(width, {
        height: 300, marginLeft: 56, marginBottom: 38, marginTop: 22,
        x: { type: "log", base: 2, label: "query tokens →", tickFormat: lengthTick, ticks: sizes.length < 8 ? sizes : Math.min(8, width / 60), domain: [d3.min(drawn, (p) => p.tokens) / 1.4, d3.max(drawn, (p) => p.tokens) * 1.4] },
        y: { type: "log", label: "↑ median, µs", grid: true, ticks: 5, tickFormat: (us) => (us >= 1 ? d3.format(",")(us) : String(us)) },
        ...dtypeScales(new Set(drawn.map((point) => point.dtype))),
        marks: [
          ...(floors.length
            ? [
                Plot.line(floors, { x: "tokens", y: "floor_us", z: (p) => `${p.op}|${p.phase}|${p.dtype}`, stroke: "var(--ink)", strokeDasharray: "4 3", strokeWidth: 1.2 }),
                // Of one size a line is a point: a short one shows where it is.
                Plot.ruleY(floors, { x1: (p) => p.tokens / 1.05, x2: (p) => p.tokens * 1.05, y: "floor_us", stroke: "var(--ink)", strokeDasharray: "4 3", strokeWidth: 1.2 }),
              ]
            : []),
          Plot.line(drawn, { x: "tokens", y: "median_us", z: lines, stroke: "dtype", strokeOpacity: 0.35 }),
          Plot.ruleX(drawn, { x: "tokens", y1: "low_us", y2: "high_us", stroke: "dtype", strokeOpacity: 0.6 }),
          // Two marks: a point whose fill is null would not be drawn at all.
          Plot.dot(drawn.filter((p) => p.phase !== "forward"), { x: "tokens", y: "median_us", stroke: "dtype", fill: "var(--raised)", symbol: "dtype", r: 3.5, strokeWidth: 1.2 }),
          Plot.dot(drawn.filter((p) => p.phase === "forward"), { x: "tokens", y: "median_us", stroke: "dtype", fill: "dtype", symbol: "dtype", r: 3.5, strokeWidth: 1.2 }),
          tip(drawn, "tokens", "median_us", words),
        ],
      })),
    table: () => ({
      columns: ["candidate", "operation", "dtype", "phase", "tokens", "median, µs", "interval, µs", "share of ceiling, %"],
      rows: drawn.map((p) => [p.candidate, p.op, p.dtype, p.phase, whole(p.tokens), figure(p.median_us), `${figure(p.low_us)} to ${figure(p.high_us)}`, percent(p.share)]),
    }),
  };
};
