// Drawing of segments and probabilities.

const SVG = "http://www.w3.org/2000/svg";
const MOST_POINTS = 4000;

export function color(name, names) {
  const number = Math.max(0, names.indexOf(name));
  return `hsl(${(number * 137.508 + 210) % 360} 65% ${number % 2 ? 62 : 72}%)`;
}

// Segments share one lane; detections, which may overlap, have a lane for each class.
export function lanesOf(rows, overlapping) {
  if (!overlapping) return new Map(rows.map(each => [each.label, 0]));
  return new Map([...new Set(rows.map(each => each.label))].map((name, lane) => [name, lane]));
}

function element(kind, values) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
  return made;
}

export function drawTimeline(drawing, { rows, lanes, duration, curve, names }) {
  const width = drawing.clientWidth || 800, height = drawing.clientHeight || 140;
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = time => duration ? width * time / duration : 0;
  const count = Math.max(1, ...[...lanes.values()].map(lane => lane + 1));
  const top = curve ? height * 0.5 : height;
  const parts = rows.map(each => element("rect", {
    x: x(each.start), y: top * lanes.get(each.label) / count, width: Math.max(1, x(each.stop) - x(each.start)),
    height: Math.max(2, top / count - 1), fill: color(each.label, names),
  }));
  for (const each of rows) {
    const room = x(each.stop) - x(each.start);
    if (room < 8 * each.label.length + 12 || top / count < 14) continue;
    const text = element("text", { x: x(each.start) + 6, y: top * (lanes.get(each.label) + 0.5) / count + 4 });
    text.textContent = each.label;
    parts.push(text);
  }
  if (curve && curve.times.length) {
    const step = Math.ceil(curve.times.length / MOST_POINTS);
    const y = share => height - 4 - (height - top - 10) * share;
    const points = [];
    for (let index = 0; index < curve.times.length; index += step) {
      const next = curve.times[index + step] ?? duration;
      points.push(`${x(curve.times[index])},${y(curve.probabilities[index])}`, `${x(next)},${y(curve.probabilities[index])}`);
    }
    parts.push(element("polyline", { class: "curve", points: points.join(" ") }));
  }
  drawing.replaceChildren(...parts);
}
