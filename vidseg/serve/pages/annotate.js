// The annotation page: a list of videos, a player, a time line. Every change is sent to the server at once.

import { api, ApiError } from "./annotate_api.js";
import { added, merged, moved, nearest, overlaps, removed, split } from "./annotate_edits.js";
import { addFiles } from "./annotate_files.js";
import { Player } from "./annotate_player.js";
import { colorOf, Timeline } from "./annotate_timeline.js";
import { WholeVideo } from "./annotate_whole.js";
import { setToken } from "./server.js";

const $ = (id) => document.getElementById(id);
const SPEEDS = [0.25, 0.5, 1, 2, 4];
const ZOOMS = [1, 2, 4, 8, 16, 32, 64, 128];
const LISTED = 500; // videos in the list
const REFRESH = 4000; // ms, while the model computes suggestions
const state = {
  classes: [], videos: [], video: null, labels: null, selected: -1, current: null, begun: null, suggestion: null,
  mine: null, model: null, background: null, source: null, zoom: 1,
};
let saving = Promise.resolve(); // changes are sent one after the other

// ---- Messages

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

function fail(error) {
  if (error instanceof ApiError && error.status === 401) $("token-field").hidden = false;
  say(error.message, true);
}

// ---- Time

const fps = () => (state.video && state.video.fps > 0 ? state.video.fps : 25);
const seconds = () => (state.video.seconds > 0 ? state.video.seconds : state.video.frames / fps());
const now = () => player.number / fps();
const copy = ({ label, classes, segments }) => ({ label, classes, segments: segments.map((one) => ({ ...one })) });
const shape = () => ({ dense: state.video.dense, fills: state.background !== null, seconds: seconds() });

function at(time) {
  const { segments } = state.labels;
  return segments.findLastIndex((one) => one.start <= time + 1e-6 && time + 1e-6 < one.stop);
}

// ---- Drawing

function drawTimeline() {
  if (!state.labels) return;
  const axis = { seconds: seconds(), step: 1 / fps(), classes: state.classes };
  timeline.draw(state.labels.segments, { ...axis, selected: state.selected });
  const suggested = state.suggestion ? state.suggestion.segments : [];
  suggestions.draw(suggested, { ...axis, selected: -1, words: "Suggestion: " });
  $("accept").hidden = !suggested.length && !(state.suggestion && state.suggestion.label);
}

function drawRows() {
  $("rows").replaceChildren(
    ...state.labels.segments.map((one, index) => {
      const row = document.createElement("tr");
      for (const text of [one.start.toFixed(2), one.stop.toFixed(2), one.label]) {
        row.insertCell().textContent = text;
      }
      row.setAttribute("aria-selected", String(index === state.selected));
      row.addEventListener("click", () => select(index, true));
      return row;
    }),
  );
  $("history").replaceChildren(
    ...[...state.labels.changes].reverse().map((change) => {
      const item = document.createElement("li");
      item.textContent = `${change.time.replace("T", " ").replace("Z", " UTC")}, ${change.author}: ${change.what}`;
      return item;
    }),
  );
}

function drawClasses() {
  const chosen = state.selected >= 0 ? state.labels.segments[state.selected].label : state.current;
  $("classes").replaceChildren(
    ...state.classes.map((name, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = number < 9 ? `${number + 1} ${name}` : name;
      button.style.borderLeftColor = colorOf(state.classes, name);
      button.setAttribute("aria-pressed", String(name === chosen));
      button.addEventListener("click", () => chooseClass(name));
      return button;
    }),
  );
  whole.draw(state);
}

function drawButtons() {
  const has = state.labels !== null;
  const one = has && state.selected >= 0;
  for (const id of ["back", "play", "forward", "mark", "label", "several"]) $(id).disabled = !has;
  $("wider").disabled = !has || state.zoom === ZOOMS.at(-1);
  $("narrower").disabled = !has || state.zoom === 1;
  for (const id of ["split", "merge", "remove"]) $(id).disabled = !one;
  $("undo").disabled = !has || !state.labels.can_undo;
  $("redo").disabled = !has || !state.labels.can_redo;
  $("mark").textContent = state.begun === null ? "Begin segment" : "End segment";
  $("mine").hidden = state.mine === null;
}

function drawVideos() {
  const words = $("search").value.toLowerCase();
  const order = $("order").value;
  const done = (video) => video.label !== null || video.classes !== null || video.segments > 0;
  const key = {
    unlabeled: (video) => (done(video) ? 1 : 0),
    uncertain: (video) => (video.uncertainty === null ? 1 : -video.uncertainty),
    path: () => 0,
  }[order];
  const found = state.videos
    .filter((video) => video.path.toLowerCase().includes(words))
    .sort((a, b) => key(a) - key(b) || (a.path < b.path ? -1 : 1));
  const shown = found.slice(0, LISTED);
  const more = found.length - shown.length;
  $("count").textContent =
    `${state.videos.filter(done).length} of ${state.videos.length} videos have labels` +
    (more ? `; the list shows ${LISTED} of ${found.length}: search for others` : "");
  $("videos").replaceChildren(
    ...shown.map((video) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      const about = document.createElement("small");
      const several = video.classes && (video.classes.join(", ") || "none of the classes");
      const segments = video.segments && `${video.segments} segment${video.segments === 1 ? "" : "s"}`;
      const parts = [video.label, several, segments].filter(Boolean);
      if (video.uncertainty !== null) parts.push(`uncertainty ${video.uncertainty.toFixed(2)}`);
      about.textContent = parts.join(", ") || "no labels";
      button.type = "button";
      button.dataset.path = video.path;
      button.append(video.path.replace(/^jpg\//, ""), about);
      if (state.video && video.path === state.video.path) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => open(video.path));
      item.append(button);
      return item;
    }),
  );
}

function drawAll() {
  drawTimeline();
  if (state.labels) drawRows();
  drawClasses();
  drawButtons();
}

function drawFrame(number) {
  $("seek").value = number;
  $("seek").setAttribute("aria-valuetext", `frame ${number + 1}, ${(number / fps()).toFixed(2)} seconds`);
  const place = Math.min(1, number / fps() / seconds());
  $("head").style.left = `${100 * place}%`;
  const box = $("zoomed");
  const x = place * $("timeline").clientWidth;
  if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth) box.scrollLeft = x - box.clientWidth / 8;
  $("clock").value = `${(number / fps()).toFixed(2)} s, frame ${number + 1} of ${state.video.frames}`;
}

// ---- Labels

function receive(labels) {
  const kept = state.selected >= 0 && state.labels ? state.labels.segments[state.selected] : null;
  state.labels = labels;
  state.selected = kept
    ? labels.segments.findIndex((one) => one.label === kept.label && one.start === kept.start && one.stop === kept.stop)
    : -1;
  const video = state.videos.find((one) => one.path === state.video.path);
  if (video) Object.assign(video, { label: labels.label, classes: labels.classes, segments: labels.segments.length });
  drawVideos();
  drawAll();
}

function author() {
  const name = $("author").value.trim();
  if (!name) {
    $("author").focus();
    throw new ApiError(0, "Enter your name first: every change is stored with it.");
  }
  localStorage.setItem("vidseg-author", name);
  return name;
}

// Sends what `change` makes of the labels. `change` runs when the changes before it were answered; a sentence that it
// returns says why it is impossible. The segment that is nearest to `chosen` is selected afterwards.
function edit(change, chosen = null) {
  const path = state.video.path;
  saving = saving.then(async () => {
    if (!state.video || state.video.path !== path) return;
    const labels = copy(state.labels);
    const reason = change(labels);
    if (reason === false) return drawAll(); // nothing to write
    if (typeof reason === "string") {
      drawAll();
      return say(reason, true);
    }
    try {
      const body = { ...labels, version: state.labels.version, author: author() };
      const answer = await api.save(path, body);
      if (state.video.path !== path) return;
      state.mine = null;
      receive(answer);
      if (chosen) {
        state.selected = nearest(answer.segments, chosen);
        drawAll();
      }
      say("Saved.");
    } catch (error) {
      await conflict(error, path, labels);
    }
  });
  return saving;
}

async function conflict(error, path, labels) {
  if (error instanceof ApiError && error.status === 409) {
    receive(await api.labels(path));
    state.mine = labels;
    drawButtons();
    say("Someone else changed these labels meanwhile. Their labels are shown; yours were not saved.", true);
  } else {
    fail(error);
    drawAll();
  }
}

function takeBack(name) {
  const path = state.video.path;
  saving = saving.then(async () => {
    try {
      const answer = await api[name](path, { version: state.labels.version, author: author() });
      if (state.video.path === path) receive(answer);
      say(name === "undo" ? "Undone." : "Redone.");
    } catch (error) {
      await conflict(error, path, null);
    }
  });
  return saving;
}

function select(index, seek = false) {
  state.selected = index;
  if (index >= 0) {
    state.current = state.labels.segments[index].label;
    if (seek) player.show(Math.round(state.labels.segments[index].start * fps()));
  }
  drawAll();
}

function chooseClass(name) {
  state.current = name;
  const index = state.selected;
  const { start, stop } = index < 0 ? {} : state.labels.segments[index];
  if (index < 0 || now() < start - 1e-6 || now() >= stop - 1e-6) {
    state.selected = -1; // someone who has gone on means the next segment
    return drawAll();
  }
  return edit((labels) => void (labels.segments[index].label = name), { start, stop, label: name });
}

function add(start, stop) {
  const label = state.current;
  if (!label) return say("Choose a class first.", true);
  const one = { start, stop, label };
  return edit((labels) => void (labels.segments = added(labels.segments, one, shape())), one);
}

function move(index, start, stop) {
  const { label } = state.labels.segments[index];
  const change = (labels) => {
    const segments = moved(labels.segments, index, start, stop, shape());
    if (!segments) return "Every frame of this video has a class: there is no neighbor that takes the freed frames.";
    labels.segments = segments;
  };
  return edit(change, { start, stop, label });
}

const actions = {
  mark() {
    if (state.begun === null) {
      state.begun = player.number;
      say("Go to the last frame of the segment and press I again.");
      return drawButtons();
    }
    const [first, last] = [state.begun, player.number].sort((a, b) => a - b);
    state.begun = null;
    drawButtons();
    return add(first / fps(), (last + 1) / fps());
  },
  split() {
    const index = state.selected;
    const time = now();
    const { stop, label } = state.labels.segments[index];
    const change = (labels) => {
      const segments = split(labels.segments, index, time);
      if (!segments) return "Go to a frame inside the segment to split it.";
      labels.segments = segments;
    };
    return edit(change, { start: time, stop, label });
  },
  merge() {
    const index = state.selected;
    const next = state.labels.segments[index + 1];
    const { start, stop, label } = state.labels.segments[index];
    const change = (labels) => {
      const segments = merged(labels.segments, index);
      if (!segments) return "There is no segment after this one.";
      labels.segments = segments;
    };
    return edit(change, { start, stop: next ? Math.max(stop, next.stop) : stop, label });
  },
  remove() {
    const index = state.selected;
    state.selected = -1;
    return edit((labels) => {
      const segments = removed(labels.segments, index, shape());
      if (!segments) return "Every frame of this video has a class: choose another class instead.";
      labels.segments = segments;
    });
  },
  undo: () => takeBack("undo"),
  redo: () => takeBack("redo"),
  accept() {
    if (!state.suggestion) return null;
    const { label, segments } = state.suggestion;
    return edit((labels) => {
      if (label) whole.accept(labels, label);
      const plain = segments.map(({ start, stop, label: name }) => ({ start, stop, label: name }));
      if (state.video.dense) labels.segments = plain.length ? plain : labels.segments;
      else labels.segments.push(...plain.filter((one) => !overlaps(labels.segments, one)));
    });
  },
  wider: () => zoom(1),
  narrower: () => zoom(-1),
  mine() {
    const mine = state.mine;
    state.mine = null;
    return edit((labels) => void Object.assign(labels, mine));
  },
};

// ---- Videos

async function open(path) {
  await saving;
  Object.assign(state, { selected: -1, begun: null, suggestion: null, mine: null, labels: null, source: null, zoom: 1 });
  zoom(0);
  state.video = state.videos.find((video) => video.path === path);
  history.replaceState(null, "", `#${encodeURIComponent(path)}`);
  $("title").textContent = path.replace(/^jpg\//, "");
  $("seek").max = Math.max(0, state.video.frames - 1);
  drawVideos();
  try {
    const labels = await api.labels(path);
    if (state.video.path !== path) return;
    player.open(state.video);
    receive(labels);
    say(state.video.frames && state.video.has_frames ? "" : "This video has no frames to show.");
    findSource(path);
  } catch (error) {
    fail(error);
    return;
  }
  if (!state.model) return;
  try {
    const suggestion = await api.suggestion(path);
    if (state.video.path !== path) return;
    state.suggestion = suggestion;
    state.videos.find((video) => video.path === path).uncertainty = suggestion.uncertainty;
    drawVideos();
    drawTimeline();
  } catch (error) {
    fail(error);
  }
}

// Plays the source video if it exists and the browser can; says why not.
async function findSource(path) {
  $("picture-note").textContent = "";
  $("picture-from").value = "frames";
  $("picture-from").disabled = true;
  if (!state.video.has_frames) return;
  try {
    const source = await api.source(path);
    if (state.video.path !== path) return;
    state.source = source;
    $("picture-from").disabled = false;
    if (localStorage.getItem("vidseg-pictures") !== "frames") usePictures("source");
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) return fail(error);
    if (state.video.path === path) noSource(error.message);
  }
}

function usePictures(from) {
  $("picture-from").value = from;
  $("picture-note").textContent = "";
  return player.useSource(from === "source" ? state.source : null);
}

function noSource(reason) {
  $("picture-from").value = player.fromSource ? "source" : "frames";
  $("picture-note").textContent = reason && `Frames of the database are shown instead of the source video: ${reason}`;
}

function step(by) {
  const paths = [...$("videos").querySelectorAll("button")].map((button) => button.dataset.path);
  const next = paths[paths.indexOf(state.video && state.video.path) + by];
  if (next) open(next);
}

async function load() {
  try {
    const project = await api.project();
    Object.assign(state, { classes: project.classes, model: project.model, background: project.background });
    files.draw(project.divisions);
    if (project.pending) setTimeout(refresh, REFRESH);
    $("data").textContent = `vidseg annotate: ${project.name}`;
    state.current = state.classes[0] || null;
    state.videos = await api.videos();
  } catch (error) {
    return fail(error);
  }
  drawVideos();
  drawAll();
  const wanted = wantedVideo();
  const first = state.videos.find((video) => video.path === wanted) || state.videos[0];
  return first ? open(first.path) : say("The data set has no videos; convert some with `vidseg convert`.");
}

// The uncertainties that the model has found meanwhile.
async function refresh() {
  try {
    const [project, videos] = [await api.project(), await api.videos()];
    const found = new Map(videos.map((video) => [video.path, video]));
    for (const video of state.videos) Object.assign(video, found.get(video.path));
    drawVideos();
    if (project.pending) setTimeout(refresh, REFRESH);
  } catch (error) {
    fail(error);
  }
}

function wantedVideo() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // not written by this page
  }
}

// ---- Keys

function zoom(by) {
  state.zoom = ZOOMS[Math.max(0, Math.min(ZOOMS.length - 1, ZOOMS.indexOf(state.zoom) + by))];
  $("timeline").style.width = `${100 * state.zoom}%`;
  if (state.video && state.labels) {
    drawFrame(player.number);
    drawButtons();
    const x = Number.parseFloat($("head").style.left) / 100;
    $("zoomed").scrollLeft = x * $("timeline").clientWidth - $("zoomed").clientWidth / 2;
  }
}

function speed(by) {
  const place = SPEEDS.indexOf(Number($("speed").value)) + by;
  if (SPEEDS[place]) {
    $("speed").value = String(SPEEDS[place]);
    player.speed = SPEEDS[place];
  }
}

function edge(name) {
  if (state.selected < 0) return say("Select a segment first.", true);
  const { start, stop } = state.labels.segments[state.selected];
  const [first, last] = name === "start" ? [now(), stop] : [start, now() + 1 / fps()];
  return first < last ? move(state.selected, first, last) : say("The segment would have no length.", true);
}

function press(event) {
  byPointer = false;
  const inField = event.target.matches("input:not([type=range]), select, textarea, summary");
  // AltGr, with which some keyboards write brackets, is Ctrl and Alt
  if ((event.ctrlKey || event.metaKey) && !event.getModifierState("AltGraph")) {
    const key = event.key.toLowerCase();
    if (!["z", "y"].includes(key) || !state.labels || $("help").open || event.target.matches("input:not([type=range])")) return;
    event.preventDefault();
    actions[key === "y" || event.shiftKey ? "redo" : "undo"]();
    return;
  }
  if (event.key === "Escape" && inField) return event.target.blur();
  if ($("help").open || inField) return;
  if (event.key === "?") return void $("help").showModal();
  if (event.key === "n" || event.key === "N") return step(1);
  if (event.key === "p" || event.key === "P") return step(-1);
  if (!state.labels) return;
  const digit = /^Digit[0-9]$/.test(event.code) ? Number(event.code.slice(5)) : Number.parseInt(event.key, 10);
  const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const plain = !event.target.matches("button");
  let used = true;
  if (arrow && event.altKey && state.selected >= 0) {
    const { start, stop } = state.labels.segments[state.selected];
    move(state.selected, start + arrow / fps(), stop + arrow / fps());
  } else if (arrow) player.show(player.number + arrow * (event.shiftKey ? Math.round(fps()) : 1));
  else if (event.key === "Home") player.show(0);
  else if (event.key === "End") player.show(state.video.frames - 1);
  else if (event.key === " " && plain) player.toggle();
  else if (event.key === "Enter" && plain) select(at(now()));
  else if (event.key === "+" || event.key === "=") speed(1);
  else if (event.key === "-") speed(-1);
  else if (event.key === "[" || event.key === ",") edge("start");
  else if (event.key === "]" || event.key === ".") edge("stop");
  else if (digit >= 0 && event.shiftKey) whole.toggle(digit ? state.classes[digit - 1] : null);
  else if (digit > 0) state.classes[digit - 1] && chooseClass(state.classes[digit - 1]);
  else if (event.key.toLowerCase() === "v") $("picture-from").disabled || choosePictures(player.fromSource ? "frames" : "source");
  else if (event.key.toLowerCase() === "z") zoom(event.shiftKey ? -1 : 1);
  else if (event.key === "Escape") {
    state.begun = null;
    select(-1);
  } else {
    const name = { i: "mark", s: "split", m: "merge", delete: "remove", backspace: "remove", a: "accept" };
    const action = name[event.key.toLowerCase()];
    used = Boolean(action) && !$(action).disabled && !$(action).hidden;
    if (used) actions[action]();
  }
  if (used) event.preventDefault();
}

function choosePictures(from) {
  localStorage.setItem("vidseg-pictures", from);
  return usePictures(from);
}

// ---- Start

const player = new Player($("screen"), {
  onFrame: drawFrame,
  onState: (playing) => ($("play").textContent = playing ? "Pause" : "Play"),
  onError: fail,
  onSource: noSource,
});
const whole = new WholeVideo({ edit, say });
const files = addFiles({ load, say, fail });
let byPointer = false; // whether the last input was the pointer's, after which keys are those of the page
const timeline = new Timeline($("lane"), {
  onSelect: (index) => select(index),
  onEdit: move,
  onDraw: add,
  onSeek: (time) => player.show(Math.round(time * fps())),
});
const suggestions = new Timeline($("suggested"), {
  onSelect: (index) => {
    const { start, stop, label } = state.suggestion.segments[index];
    state.current = label;
    add(start, stop);
  },
});

for (const id of Object.keys(actions)) $(id).addEventListener("click", () => actions[id]());
$("play").addEventListener("click", () => player.toggle());
$("back").addEventListener("click", () => player.show(player.number - 1));
$("forward").addEventListener("click", () => player.show(player.number + 1));
$("seek").addEventListener("input", () => player.show(Number($("seek").value)));
$("speed").addEventListener("change", () => (player.speed = Number($("speed").value)));
$("search").addEventListener("input", drawVideos);
$("order").addEventListener("change", drawVideos);
$("picture-from").addEventListener("change", () => choosePictures($("picture-from").value));
$("help-open").addEventListener("click", () => $("help").showModal());
$("author").value = localStorage.getItem("vidseg-author") || "";
$("token").addEventListener("change", () => {
  setToken($("token").value);
  load();
});
$("new-class").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    state.classes = await api.addClass($("class-name").value);
    $("class-name").value = "";
    state.current = state.current || state.classes[0];
    drawAll();
  } catch (error) {
    fail(error);
  }
});
document.addEventListener("keydown", press);
document.addEventListener("pointerdown", () => (byPointer = true));
document.addEventListener("click", (event) => {
  if (event.detail > 0) event.target.closest("main button")?.blur();
});
document.addEventListener("change", (event) => {
  if (byPointer && event.target.matches("select")) event.target.blur();
});
load();
