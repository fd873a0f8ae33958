"use strict";
(() => {
  const root = document.documentElement;
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const PAPER_WIDTH = 680; // CSS pixels between the margins of a printed A4 page, less the frame of a plot
  const PAPER_HEIGHT = 900; // likewise, less a caption
  // The colours of the stored plots, and their replacements on a dark background.
  const DARK = {
    "#1f2933": "#e3e9f0", "#64748b": "#c3ccd7", "#2563eb": "#7aa7ff", "#d97706": "#f2ab4f", "#9aa5b1": "#7d8b9b", "#059669": "#3fcf97",
    "#dc2626": "#ff7a72", "#7c3aed": "#b493ff", "#0891b2": "#4cc7de", "#ffffff": "#171e27", "white": "#171e27",
    "#f5f8ff": "#1d2836", "#f3b27a": "#8a5a26", "#f7f7f7": "#2a3441", "#8fb4f5": "#2f5496", "#d5dae1": "#4a5665", // of heat maps
  };
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  const CONFIG = {
    displaylogo: false,
    displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false, // a phone has no pointer to hover with
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };
  let chosen = null; // by the button; null: as the system says
  let onPaper = false;

  const isDark = () => !onPaper && (chosen ?? (media.matches ? "dark" : "light")) === "dark";

  /** A copy of a value with the colours of the dark scheme in place of the stored ones. */
  const recolour = (value) => {
    if (typeof value === "string") return DARK[value.toLowerCase()] ?? value;
    if (Array.isArray(value)) return value.map(recolour);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recolour(item)]));
    return value;
  };

  const template = (dark) => {
    const [ink, grid] = dark ? ["#e3e9f0", "#2a3441"] : ["#1f2933", "#e7eaee"];
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true, ticklabelstandoff: 4, title: { font: { size: 13 } } };
    return {
      layout: {
        font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", size: 13, color: ink },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
        margin: { l: 64, r: 40, t: 34, b: 56 }, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        colorway: ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2"].map((c) => (dark ? DARK[c] : c)),
        colorscale: { sequential: [[0, "#ffffff"], [1, "#2563eb"]] },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: "#9aa5b1", activecolor: ink },
        hoverlabel: { bgcolor: dark ? "#2a3441" : "#ffffff", font: { color: ink } },
      },
    };
  };

  const draw = async (id) => {
    const place = document.getElementById(id);
    const plot = plots[id];
    const dark = isDark();
    const drawn = dark ? recolour(plot) : structuredClone(plot);
    const least = parseFloat(place.style.minWidth) || 0;
    const width = onPaper ? Math.max(PAPER_WIDTH, least) : place.clientWidth;
    const layout = { ...drawn.layout, template: template(dark), width, autosize: false };
    await Plotly.react(place, drawn.data, layout, CONFIG);
    const shrunk = Math.min(1, PAPER_WIDTH / width, PAPER_HEIGHT / place.clientHeight);
    place.style.zoom = onPaper && shrunk < 1 ? String(shrunk) : "";
  };

  const scrolled = [...document.querySelectorAll(".scroll, nav ul")];
  /** Fade the right end of a place that has more to the right. */
  const hint = (place) =>
    place.classList.toggle("cut", place.scrollLeft + place.clientWidth < place.scrollWidth - 1);
  for (const place of scrolled) place.addEventListener("scroll", () => hint(place), { passive: true });

  let round = 0;
  /** Draw all plots in the order of the page, giving the browser time between them; a newer round ends this one. */
  const drawAll = async () => {
    const mine = ++round;
    let drawn = 0;
    let failed = 0;
    for (const id of Object.keys(plots).sort(byPlace)) {
      if (mine !== round) return;
      try {
        await draw(id);
        drawn += 1;
      } catch (error) {
        failed += 1;
        const place = document.getElementById(id);
        place.textContent = "This plot could not be drawn.";
        place.classList.add("failed");
        console.error(`plot ${id}`, error);
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
    for (const place of scrolled) hint(place);
    root.dataset.drawn = String(drawn);
    root.dataset.failed = String(failed);
  };
  const byPlace = (a, b) => {
    const [one, other] = [a, b].map((id) => document.getElementById(id));
    return one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1;
  };

  const setScheme = () => {
    root.dataset.scheme = isDark() ? "dark" : "light";
    return drawAll();
  };
  document.getElementById("scheme").addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    setScheme();
  });
  media.addEventListener("change", setScheme);

  let width = window.innerWidth;
  let waiting = 0;
  window.addEventListener("resize", () => {
    if (onPaper || window.innerWidth === width) return; // a phone changes the height alone as one scrolls
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]])
    window.addEventListener(event, () => {
      onPaper = paper;
      round += 1;
      root.dataset.scheme = isDark() ? "dark" : "light";
      for (const id of Object.keys(plots)) draw(id); // at once: the browser does not wait for a promise
    });

  const links = new Map([...document.querySelectorAll("nav li a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) if (entry.isIntersecting) {
        for (const link of links.values()) link.classList.remove("here");
        links.get(entry.target.id)?.classList.add("here");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const section of document.querySelectorAll("section")) watcher.observe(section);

  setScheme();
})();
