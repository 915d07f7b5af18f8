// Edits of a list of segments. `dense`: every frame of the video has a class, so segments cover it without overlap;
// `fills`: the server fills gaps with the background class. Each edit returns the new list, or null if it is impossible.

// Cuts the others to what [start, stop) leaves of them.
function cut(others, start, stop) {
  const left = [];
  for (const one of others) {
    if (one.start < start) left.push({ ...one, stop: Math.min(one.stop, start) });
    if (one.stop > stop) left.push({ ...one, start: Math.max(one.start, stop) });
  }
  return left.filter((one) => one.stop - one.start > 1e-6);
}

const byStart = (segments) => segments.sort((a, b) => a.start - b.start || a.stop - b.stop);

export function added(segments, one, { dense }) {
  return byStart([...(dense ? cut(segments, one.start, one.stop) : segments), one]);
}

export function moved(segments, index, start, stop, { dense, fills, seconds }) {
  const old = segments[index];
  const one = { ...old, start, stop };
  if (!dense) return byStart(segments.with(index, one));
  one.start = Math.max(0, start);
  one.stop = Math.min(seconds, stop);
  const others = cut(segments.toSpliced(index, 1), one.start, one.stop);
  if (!fills) {
    // the neighbors take what the segment leaves
    const before = others.filter((each) => each.stop <= one.start + 1e-6).at(-1);
    const after = others.find((each) => each.start >= one.stop - 1e-6);
    if ((!before && one.start > 1e-6) || (!after && one.stop < seconds - 1e-6)) return null;
    if (before) before.stop = one.start;
    if (after) after.start = one.stop;
  }
  return byStart([...others, one]);
}

export function removed(segments, index, { dense, fills }) {
  const rest = segments.toSpliced(index, 1).map((one) => ({ ...one }));
  if (!dense || fills) return rest;
  if (!rest.length) return null;
  if (index > 0) rest[index - 1].stop = segments[index].stop;
  else rest[0].start = segments[0].start;
  return rest;
}

export function split(segments, index, time) {
  const one = segments[index];
  if (!(one.start + 1e-6 < time && time < one.stop - 1e-6)) return null;
  return segments.toSpliced(index, 1, { ...one, stop: time }, { ...one, start: time });
}

export function merged(segments, index) {
  const [one, next] = [segments[index], segments[index + 1]];
  return next ? segments.toSpliced(index, 2, { ...one, stop: Math.max(one.stop, next.stop) }) : null;
}

// The segment of a class that overlaps [start, stop) most.
export function nearest(segments, { start, stop, label }) {
  let [best, most] = [-1, 0];
  segments.forEach((one, index) => {
    const common = Math.min(one.stop, stop) - Math.max(one.start, start);
    if (one.label === label && common > most) [best, most] = [index, common];
  });
  return best;
}

export function overlaps(segments, one) {
  return nearest(segments, one) >= 0;
}
