"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Theme: what the system says until the button says otherwise; paper is always light.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  let printing = false;
  const applyTheme = () => {
    root.dataset.theme = printing ? "light" : chosen || (dark.matches ? "dark" : "light");
    drawn.forEach((draw) => draw());
  };
  const drawn = new Map();
  dark.addEventListener("change", applyTheme);
  $("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    applyTheme();
  });

  // Tables: a click on a heading sorts, a second one turns the order round; empty cells stay last.
  const compare = (a, b) => {
    const x = parseFloat(a), y = parseFloat(b);
    const numbers = a.trim() !== "" && b.trim() !== "" && !isNaN(Number(a)) && !isNaN(Number(b));
    return numbers ? x - y : a.localeCompare(b, undefined, { numeric: true });
  };
  const sortTable = (table, column, sign) => {
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * compare(x, y);
    });
    body.append(...rows);
  };
  const nextOrder = (th) => {
    const up = th.getAttribute("aria-sort") !== "ascending";
    th.parentNode.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    return up ? 1 : -1;
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("thead th").forEach((th, column) => {
      th.addEventListener("click", () => sortTable(table, column, nextOrder(th)));
    });
  });
  document.querySelectorAll("input.filter").forEach((input) => {
    const rows = [...input.closest("figure").querySelectorAll("tbody tr")];
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      });
    });
  });

  // Pictures: drawn when they come into view, with the page's colours.
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const draw = (figure) => {
    const figures = JSON.parse(figure.querySelector("script").textContent);
    const select = figure.querySelector("select");
    const { data, layout } = figures[select ? Number(select.value) : 0];
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") };
    const full = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 12 }, margin: { l: 55, r: 20, t: 10, b: 50 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "closest" };
    ["xaxis", "yaxis", "yaxis2"].forEach((name) => {
      if (layout[name]) full[name] = { ...axis, ...layout[name] };
    });
    const narrow = figure.clientWidth < 500;
    if (narrow && data[0].type === "heatmap") full.yaxis = { ...full.yaxis, tickvals: data[0].y, ticktext: data[0].y.map((t) => t.split(":")[0]) };
    Plotly.react(figure.querySelector(".plot"), data, full, { responsive: true, displayModeBar: false });
  };
  const show = (figure) => {
    if (drawn.has(figure)) return;
    drawn.set(figure, () => draw(figure));
    const select = figure.querySelector("select");
    if (select) select.addEventListener("change", () => draw(figure));
    draw(figure);
  };
  const pictures = [...document.querySelectorAll(".picture")];
  applyTheme();
  const watcher = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => show(entry.target));
  }, { rootMargin: "600px" });
  pictures.forEach((figure) => watcher.observe(figure));
  // On paper nothing scrolls: a table too wide for it is made smaller. It takes about 0.7 of
  // its width on the screen there; 680 pixels are an A4 page less its margins.
  const tables = [...document.querySelectorAll("figure.table table, #episode-table")];
  window.addEventListener("beforeprint", () => {
    printing = true;
    tables.forEach((table) => { table.style.zoom = Math.min(1, 680 / (0.7 * table.scrollWidth)); });
    pictures.forEach(show);
    applyTheme();
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    tables.forEach((table) => { table.style.zoom = ""; });
    applyTheme();
  });

  // Episodes: columns of data, a hundred rows shown at a time.
  const e = JSON.parse($("data").textContent);
  const PAGE = 100;
  const outcome = (k) => {
    if (e.statuses[e.status[k]] !== "ok") return e.statuses[e.status[k]];
    return e.success[k] ? "success" : "failure";
  };
  const columns = [
    ["configuration", (k) => e.cells[e.cell[k]]],
    ["suite", (k) => e.suites[e.suite[k]]],
    ["task", (k) => e.task[k]],
    ["trial", (k) => e.trial[k]],
    ["seed", (k) => e.seed[k]],
    ["outcome", outcome],
    ["against none", (k) => ["", "lost", "gained"][e.pair[k]]],
    ["steps", (k) => e.steps[k]],
    ["calls", (k) => e.calls[k]],
    ["pruned calls", (k) => e.pruned[k]],
    ["p50 ms", (k) => e.ms[k]],
    ["video", (k) => e.videos[k] || ""],
    ["episode", (k) => e.id[k]],
    ["error", (k) => e.errors[k] || ""],
  ];
  const number = new Set(["task", "trial", "seed", "steps", "calls", "pruned calls", "p50 ms"]);
  let rows = e.id.map((_, k) => k);
  let start = 0;
  const wanted = {
    success: (k) => outcome(k) === "success",
    failure: (k) => outcome(k) === "failure",
    error: (k) => e.statuses[e.status[k]] !== "ok",
    lost: (k) => e.pair[k] === 1,
    gained: (k) => e.pair[k] === 2,
    video: (k) => k in e.videos,
  };
  let order = null;
  const address = (path) => path.split("/").map(encodeURIComponent).join("/");
  const cellOf = (name, value) => {
    const td = document.createElement("td");
    if (number.has(name)) td.className = "number";
    if (name === "video" && value) {
      const link = document.createElement("a");
      link.href = address(value);
      link.textContent = "watch";
      td.append(link);
    } else {
      td.textContent = value === null ? "–" : value;
    }
    if (name === "outcome") td.className = value === "success" ? "good" : value === "failure" ? "" : "bad";
    return td;
  };
  const render = () => {
    const body = $("episode-table").tBodies[0];
    body.replaceChildren(...rows.slice(start, start + PAGE).map((k) => {
      const tr = document.createElement("tr");
      tr.append(...columns.map(([name, get]) => cellOf(name, get(k))));
      return tr;
    }));
    $("count").textContent = `${rows.length.toLocaleString("en")} of ${e.id.length.toLocaleString("en")} episodes`;
    $("position").textContent = rows.length ? `${start + 1} to ${Math.min(start + PAGE, rows.length)}` : "none";
    $("previous").disabled = start === 0;
    $("next").disabled = start + PAGE >= rows.length;
  };
  const select = () => {
    const cell = $("pick-cell").value, suite = $("pick-suite").value;
    const test = wanted[$("pick-outcome").value] || (() => true);
    const text = $("search").value.toLowerCase();
    rows = [];
    for (let k = 0; k < e.id.length; k++) {
      if (cell !== "" && e.cell[k] !== Number(cell)) continue;
      if (suite !== "" && e.suite[k] !== Number(suite)) continue;
      if (!test(k)) continue;
      if (text && !e.id[k].includes(text) && !(e.errors[k] || "").toLowerCase().includes(text)) continue;
      rows.push(k);
    }
    if (order) rows.sort((a, b) => order.sign * compare(String(order.get(a) ?? ""), String(order.get(b) ?? "")));
    start = 0;
    render();
  };
  const head = document.createElement("tr");
  columns.forEach(([name, get]) => {
    const th = document.createElement("th");
    th.className = number.has(name) ? "number" : "text";
    th.setAttribute("aria-sort", "none");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    th.append(button);
    th.addEventListener("click", () => {
      order = { get, sign: nextOrder(th) };
      select();
    });
    head.append(th);
  });
  $("episode-table").tHead.append(head);
  e.cells.forEach((name, k) => $("pick-cell").append(new Option(name, k)));
  e.suites.forEach((name, k) => $("pick-suite").append(new Option(name, k)));
  ["pick-cell", "pick-suite", "pick-outcome"].forEach((id) => $(id).addEventListener("change", select));
  $("search").addEventListener("input", select);
  $("previous").addEventListener("click", () => { start -= PAGE; render(); });
  $("next").addEventListener("click", () => { start += PAGE; render(); });
  select();

  // Failures that were filmed, what none solved first; beside those the film of none.
  const FILMS = 12;
  const filmed = (path, title) => {
    const video = document.createElement("video");
    Object.assign(video, { src: address(path), controls: true, preload: "metadata", muted: true, title });
    video.setAttribute("aria-label", title);
    return video;
  };
  const film = (k) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const label = e.cells[e.cell[k]];
    const name = document.createElement("strong");
    name.textContent = label;
    caption.append(name, ` ${e.suites[e.suite[k]]} task ${e.task[k]} trial ${e.trial[k]}: ${outcome(k)} after ${e.steps[k]} steps`);
    figure.className = "film";
    figure.append(caption, filmed(e.videos[k], label));
    if (k in e.beside) {
      const note = document.createElement("p");
      note.className = "note";
      note.textContent = "none solved it:";
      figure.append(note, filmed(e.beside[k], "none"));
    }
    return figure;
  };
  if ($("films")) {
    const failed = Object.keys(e.videos).map(Number).filter((k) => outcome(k) !== "success");
    failed.sort((a, b) => (e.pair[b] === 1) - (e.pair[a] === 1) || a - b);
    let some = [], shown = 0;
    const more = () => {
      $("films").append(...some.slice(shown, shown + FILMS).map(film));
      shown = Math.min(shown + FILMS, some.length);
      $("film-count").textContent = `${shown} of ${some.length} failed episodes with a video`;
      $("film-more").disabled = shown === some.length;
    };
    const again = () => {
      const cell = $("film-cell").value, lost = $("film-which").value === "lost";
      some = failed.filter((k) => (cell === "" || e.cell[k] === Number(cell)) && (!lost || e.pair[k] === 1));
      shown = 0;
      $("films").replaceChildren();
      more();
    };
    new Set(failed.map((k) => e.cell[k])).forEach((cell) => $("film-cell").append(new Option(e.cells[cell], cell)));
    ["film-cell", "film-which"].forEach((id) => $(id).addEventListener("change", again));
    $("film-more").addEventListener("click", more);
    again();
  }
})();
