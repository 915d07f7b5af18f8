// Time lines: segments as buttons that can be dragged, moved by their edges, and drawn on the empty lane.

const COLORS = [
  "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#7fb2ff", "#ff9d76", "#8fd694", "#d9c36a", "#c5a3ff",
];
const SMALLEST = 4; // pixels that a pointer moves before it draws or drags

export function colorOf(classes, name) {
  const number = classes.indexOf(name);
  return number < 0 ? "#b8b8b8" : COLORS[number % COLORS.length];
}

export class Timeline {
  // `onSelect(index)`, `onEdit(index, start, stop)`, `onDraw(start, stop)`, `onSeek(seconds)`
  constructor(lane, handlers) {
    this.lane = lane;
    this.handlers = handlers;
    this.seconds = 1;
    this.step = 0.04;
    lane.addEventListener("pointerdown", (event) => this._press(event));
  }

  draw(segments, { seconds, step, classes, selected, words = "" }) {
    const focused = this.lane.contains(document.activeElement) ? document.activeElement.dataset.index : null;
    this.seconds = seconds || 1;
    this.step = step;
    this.segments = segments;
    this.lane.replaceChildren(
      ...segments.map((segment, index) => {
        const button = document.createElement("button");
        const name = document.createElement("span");
        button.type = "button";
        button.className = "segment";
        button.dataset.index = index;
        name.textContent = segment.label;
        button.append(name);
        button.setAttribute("aria-pressed", String(index === selected));
        button.setAttribute(
          "aria-label",
          `${words}${segment.label}, ${segment.start.toFixed(2)} to ${segment.stop.toFixed(2)} seconds`,
        );
        button.title = button.getAttribute("aria-label");
        button.style.left = `${(100 * segment.start) / this.seconds}%`;
        button.style.width = `${(100 * (segment.stop - segment.start)) / this.seconds}%`;
        button.style.background = colorOf(classes, segment.label);
        if (this.handlers.onEdit) {
          for (const edge of ["start", "stop"]) {
            const handle = document.createElement("span");
            handle.className = `edge ${edge}`;
            handle.dataset.edge = edge;
            button.append(handle);
          }
        }
        button.addEventListener("click", (event) => {
          if (event.detail === 0 || !this.handlers.onEdit) this.handlers.onSelect(index); // keyboard
        });
        return button;
      }),
    );
    if (focused !== null) this.lane.querySelector(`[data-index="${focused}"]`)?.focus();
  }

  _time(event) {
    const box = this.lane.getBoundingClientRect();
    const time = ((event.clientX - box.left) / box.width) * this.seconds;
    return Math.max(0, Math.min(this.seconds, Math.round(time / this.step) * this.step));
  }

  _press(event) {
    if (event.button !== 0 || !this.handlers.onEdit) return;
    const button = event.target.closest(".segment");
    const edge = event.target.dataset.edge;
    const index = button ? Number(button.dataset.index) : -1;
    const begun = this._time(event);
    const x = event.clientX;
    const old = button ? { ...this.segments[index] } : null;
    let moved = false;
    let now = null;
    const shown = button || document.createElement("div");
    if (!button) shown.className = "drawn";

    const move = (next) => {
      if (!moved && Math.abs(next.clientX - x) < SMALLEST) return;
      if (!moved && !button) this.lane.append(shown);
      moved = true;
      const time = this._time(next);
      if (!button) now = [Math.min(begun, time), Math.max(begun, time)];
      else if (edge === "start") now = [Math.min(time, old.stop - this.step), old.stop];
      else if (edge === "stop") now = [old.start, Math.max(time, old.start + this.step)];
      else {
        const by = Math.max(-old.start, Math.min(this.seconds - old.stop, time - begun));
        now = [old.start + by, old.stop + by];
      }
      shown.style.left = `${(100 * now[0]) / this.seconds}%`;
      shown.style.width = `${(100 * (now[1] - now[0])) / this.seconds}%`;
    };
    const end = (next) => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
      if (!button) shown.remove();
      if (next.type === "pointercancel") return this.handlers.onSelect(index);
      if (moved && now && now[1] > now[0]) {
        if (button) this.handlers.onEdit(index, ...now);
        else this.handlers.onDraw(...now);
      } else {
        this.handlers.onSeek(begun);
        this.handlers.onSelect(index);
      }
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
  }
}
