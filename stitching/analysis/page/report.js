"use strict";
// Draws the plots of a report, and makes its legends, hover boxes and tables work. What is drawn comes as JSON:
// charts: for each chart its panels, each with plotly's traces and layout;
// runs: { labels, rows }, the details of each run that a dot can stand for.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // No bar of buttons, which would cover the best accuracies: a drag zooms in, a double click out again.
  const config = { responsive: true, displayModeBar: false };

  // ------------------------------------------------------------------------ plots

  const hidden = new Map(Object.keys(data.charts).map((key) => [key, new Set()])); // groups of each chart

  function draw(plot) {
    if (plot.dataset.drawn) return;
    plot.dataset.drawn = "yes";
    const key = plot.dataset.chart;
    const panel = data.charts[key][Number(plot.dataset.panel)];
    const traces = panel.traces.map((trace) => ({
      hoverinfo: "none", // events only: the box is ours
      ...trace,
      visible: !hidden.get(key).has(trace.legendgroup),
    }));
    Plotly.newPlot(plot, traces, panel.layout, config);
    plot.on("plotly_hover", (event) => showTip(event.points[0], event.event));
    plot.on("plotly_unhover", hideTip);
  }

  // A study can have a hundred plots: each is drawn when it is about to be seen, all of them for the printer.
  const plots = [...document.querySelectorAll(".plot")];
  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      seen.unobserve(entry.target);
      draw(entry.target);
    }),
    { rootMargin: "600px" },
  );
  plots.forEach((plot) => seen.observe(plot));
  addEventListener("beforeprint", () => {
    plots.forEach(draw);
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
  });

  document.querySelectorAll(".legend button").forEach((button) => {
    button.addEventListener("click", () => {
      const { chart, group } = button.dataset;
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      if (shown) hidden.get(chart).delete(group);
      else hidden.get(chart).add(group);
      for (const plot of plots) {
        if (plot.dataset.chart !== chart || !plot.dataset.drawn) continue;
        const places = plot.data.flatMap((trace, place) => (trace.legendgroup === group ? [place] : []));
        if (places.length) Plotly.restyle(plot, { visible: shown }, places);
      }
    });
  });

  // ------------------------------------------------------------------------ the box beside the mouse

  const tip = document.getElementById("tip");

  // A point stands for a run (its place in the table) or brings words of its own.
  function showTip(point, mouse) {
    const about = point.customdata;
    if (about === undefined || about === null) return;
    tip.replaceChildren(...(typeof about === "number" ? [runDetails(about)] : lines(about)));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const beside = mouse.clientX + 16 + width > innerWidth ? mouse.clientX - 16 - width : mouse.clientX + 16;
    tip.style.left = `${Math.max(8, Math.min(beside, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(mouse.clientY + 12, innerHeight - height - 8))}px`;
  }

  function hideTip() {
    tip.hidden = true;
  }

  function runDetails(place) {
    const list = document.createElement("dl");
    data.runs.labels.forEach((label, i) => {
      const value = data.runs.rows[place][i];
      if (value !== "") list.append(element("dt", label), element("dd", value));
    });
    return list;
  }

  function lines(text) {
    return text.split("\n").map((line, i) => element(i ? "div" : "b", line));
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  addEventListener("scroll", hideTip, { passive: true });

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
