"use strict";
// Draws the plots of a report, and makes its tables work. What is drawn comes as JSON:
// charts: for each chart its panels, each with plotly's traces, axes and shapes, and their size;
// runs: { labels, rows }, the details of each run that a dot can stand for.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // No bar of buttons, which would cover the best accuracies: a drag zooms in, a double click out again.
  const config = { responsive: false, displayModeBar: false };
  const font = { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif", size: 12 };
  const axis = { gridcolor: "#ececec", zeroline: false, linecolor: "#bbb" };

  // ------------------------------------------------------------------------ plots

  // The panels of a chart in one plot of plotly's, as many beside each other as there is room for, with one legend.
  function arranged(chart, available) {
    const columns = Math.max(1, Math.min(chart.panels.length, Math.floor(available / chart.width)));
    const rows = Math.ceil(chart.panels.length / columns);
    const width = Math.max(available, Math.min(chart.width, 1000));
    const titles = chart.panels.map((panel) => wrapped(panel.title, (width / columns - 20) / 7));
    const top = 8 + 16 * Math.max(...titles.map((title) => title.split("<br>").length));
    const height = rows * (chart.height + top);
    const layout = {
      width, margin: { l: 0, r: 8, t: 0, b: 4, autoexpand: false }, font, hovermode: "closest", paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)", showlegend: true, shapes: [], annotations: [],
      hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#8a94a0", font: { ...font, color: "#1f2328" } },
      legend: {
        orientation: "h", x: 0, xanchor: "left", yref: "container", y: 1, yanchor: "top", font: { size: 11.5 },
        itemsizing: "constant",
      },
    };
    const traces = chart.legend.map((trace) => ({ ...trace, xaxis: "x", yaxis: "y" }));
    const named = new Set();
    chart.panels.forEach((panel, number) => {
      const suffix = number ? String(number + 1) : "";
      const [column, row] = [number % columns, Math.floor(number / columns)];
      const x = [(column + chart.left / (width / columns)) / columns, (column + 1 - 14 / (width / columns)) / columns];
      const cell = chart.height + top;
      const y = [1 - (row + 1 - chart.bottom / cell) / rows, 1 - (row + top / cell) / rows];
      layout[`xaxis${suffix}`] = { ...axis, ...panel.xaxis, domain: x, anchor: `y${suffix}` };
      layout[`yaxis${suffix}`] = { ...axis, ...panel.yaxis, domain: y, anchor: `x${suffix}` };
      layout.annotations.push({
        text: `<b>${titles[number]}</b>`, x: (x[0] + x[1]) / 2, y: y[1], xref: "paper", yref: "paper", xanchor: "center",
        yanchor: "bottom",
        showarrow: false, font: { size: 12 },
      });
      for (const shape of panel.shapes) {
        const yref = shape.yref === "domain" ? `y${suffix} domain` : `y${suffix}`;
        layout.shapes.push({ ...shape, xref: `x${suffix}`, yref });
      }
      for (const trace of panel.traces) {
        const first = !named.has(trace.name) && trace.showlegend !== false && trace.type !== "heatmap";
        if (first) named.add(trace.name);
        traces.push({
          ...withWords(trace), xaxis: `x${suffix}`, yaxis: `y${suffix}`, showlegend: first,
        });
      }
    });
    const entries = named.size + chart.legend.length;
    const longest = Math.max(0, ...[...named, ...chart.legend.map((trace) => trace.name)].map((name) => name.length));
    const beside = Math.max(1, Math.floor(width / (50 + 6.8 * longest))); // plotly has no way to say it
    layout.margin.t = entries ? 8 + 20 * Math.ceil(entries / beside) : 0;
    layout.height = height + layout.margin.t + layout.margin.b;
    layout.showlegend = entries > 0;
    return [traces, layout];
  }

  // A title in lines of at most so many characters, if it can be broken after its arrow.
  function wrapped(title, characters) {
    return title.split("<br>").map((line) => (line.length > characters ? line.replace(" → ", " →<br>") : line)).join("<br>");
  }

  // What a point says to the reader who points at it: words of its own, or its run's row in the table of runs.
  function withWords(trace) {
    if (trace.hoverinfo === "skip") return trace;
    if (trace.type === "heatmap") return { ...trace, hovertemplate: "%{hovertext}<extra></extra>" };
    const text = trace.customdata ? trace.customdata.map(runDetails) : trace.text;
    return { ...trace, text, hovertemplate: "%{text}<extra></extra>" };
  }

  function runDetails(resultRow) {
    const row = data.runs.rows[resultRow];
    if (!row) return null;
    const lines = data.runs.labels.map((label, i) => (row[i] === "" ? null : `${label}: ${row[i]}`));
    return lines.filter(Boolean).join("<br>");
  }

  function draw(plot) {
    const available = Math.floor(plot.parentElement.clientWidth);
    if (plot.dataset.drawn === String(available)) return;
    plot.dataset.drawn = String(available);
    plot.style.height = ""; // which kept its room on the page
    Plotly.react(plot, ...arranged(data.charts[plot.dataset.chart], available), config);
  }

  // Each is drawn when it is about to be seen, all of them for the printer.
  const plots = [...document.querySelectorAll(".plot")];
  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "600px" },
  );
  plots.forEach((plot) => seen.observe(plot));
  addEventListener("resize", () => plots.filter((plot) => plot.dataset.drawn).forEach(draw));
  addEventListener("beforeprint", () => {
    plots.forEach(draw);
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
  });

  // ------------------------------------------------------------------------ tables

  // A cell sorts by its data-value, a number, or by its text; empty ones are last either way.
  function sortKey(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return cell.classList.contains("number") && text !== "" ? Number(text) : text;
  }

  function compare(a, b, direction) {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number" && typeof b === "number") return direction * (a - b);
    return direction * String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        const keyed = [...body.rows].map((row) => [sortKey(row, column), row]);
        keyed.sort(([a], [b]) => compare(a, b, direction));
        body.append(...keyed.map(([, row]) => row));
      });
    });
  });

  document.querySelectorAll("input[data-filters]").forEach((input) => {
    const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
    const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
    const count = document.getElementById(input.dataset.counts);
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += !row.hidden;
      });
      count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
    };
    input.addEventListener("input", filter);
    filter(); // a browser may have kept the words of the last visit
  });
})();
