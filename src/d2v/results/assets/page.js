// Draws each chart when it comes into view, in the colours of the page.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const places = [...document.querySelectorAll(".chart")];

function draw(place) {
  const holder = document.querySelector(`script[data-for="${place.id}"]`);
  const { data, layout } = JSON.parse(holder.textContent);
  const style = getComputedStyle(document.body);
  const ink = style.color, line = dark.matches ? "#343b46" : "#d5d9e0";
  const axis = { gridcolor: line, linecolor: line, tickcolor: line };
  const colours = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: style.fontFamily, size: 12 },
    ...Object.fromEntries(
      Object.keys(layout).filter((key) => /^[xy]axis/.test(key)).map((key) => [key, { ...layout[key], ...axis }]),
    ),
  };
  const narrow = place.clientWidth < 500;
  const title = { ...layout.title, text: wrapped(layout.title.text, Math.max(20, place.clientWidth / 9.5)) };
  const legend = { ...layout.legend, y: narrow ? -0.4 : layout.legend.y };
  Plotly.react(place, data, { ...layout, ...colours, title, legend }, { responsive: true, displaylogo: false, displayModeBar: false });
  place.dataset.drawn = "yes";
}

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && (lines.at(-1) + word).length > width) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.join("<br>");
}

if (window.Plotly) {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });
  places.forEach((place) => seen.observe(place));
  dark.addEventListener("change", () => places.filter((p) => p.dataset.drawn).forEach(draw));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("#curves details").forEach((d) => { d.open = true; });
    places.filter((p) => !p.dataset.drawn).forEach(draw);
  });
} else {
  places.forEach((place) => { place.textContent = "page/plotly.min.js is missing beside this file"; });
}
