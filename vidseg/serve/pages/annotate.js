// The annotation page: a list of videos, a player, a time line. Every change is sent to the server at once.

import { api, ApiError, setToken } from "./annotate_api.js";
import { Player } from "./annotate_player.js";
import { colorOf, Timeline } from "./annotate_timeline.js";

const $ = (id) => document.getElementById(id);
const SPEEDS = [0.25, 0.5, 1, 2, 4];
const state = {
  classes: [], videos: [], video: null, labels: null, selected: -1, current: null, begun: null, suggestion: null,
  mine: null, model: null,
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
const copy = (labels) => ({ label: labels.label, segments: labels.segments.map((one) => ({ ...one })) });

function at(time) {
  const { segments } = state.labels;
  return segments.findLastIndex((one) => one.start <= time + 1e-6 && time + 1e-6 < one.stop);
}

// ---- Drawing

function drawTimeline() {
  if (!state.labels) return;
  const shape = { seconds: seconds(), step: 1 / fps(), classes: state.classes };
  timeline.draw(state.labels.segments, { ...shape, selected: state.selected });
  const suggested = state.suggestion ? state.suggestion.segments : [];
  suggestions.draw(suggested, { ...shape, selected: -1, words: "Suggestion: " });
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
  const options = ["", ...state.classes].map((name) => {
    const option = new Option(name || "(none)", name);
    option.selected = name === ((state.labels && state.labels.label) || "");
    return option;
  });
  $("label").replaceChildren(...options);
}

function drawButtons() {
  const has = state.labels !== null;
  const one = has && state.selected >= 0;
  for (const id of ["back", "play", "forward", "mark", "label"]) $(id).disabled = !has;
  for (const id of ["split", "merge", "remove"]) $(id).disabled = !one;
  $("undo").disabled = !has || !state.labels.can_undo;
  $("redo").disabled = !has || !state.labels.can_redo;
  $("mark").textContent = state.begun === null ? "Begin segment" : "End segment";
  $("mine").hidden = state.mine === null;
}

function drawVideos() {
  const words = $("search").value.toLowerCase();
  const order = $("order").value;
  const done = (video) => video.label !== null || video.segments > 0;
  const key = {
    unlabeled: (video) => (done(video) ? 1 : 0),
    uncertain: (video) => (video.uncertainty === null ? 1 : -video.uncertainty),
    path: () => 0,
  }[order];
  const shown = state.videos
    .filter((video) => video.path.toLowerCase().includes(words))
    .sort((a, b) => key(a) - key(b) || (a.path < b.path ? -1 : 1));
  $("count").textContent = `${state.videos.filter(done).length} of ${state.videos.length} videos have labels`;
  $("videos").replaceChildren(
    ...shown.map((video) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      const about = document.createElement("small");
      const parts = [video.label, video.segments ? `${video.segments} segments` : null].filter(Boolean);
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
  $("head").style.left = `${Math.min(100, (100 * number) / fps() / seconds())}%`;
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
  if (video) Object.assign(video, { label: labels.label, segments: labels.segments.length });
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

// Sends what `change` makes of the labels. `change` runs when the changes before it were answered.
function edit(change, select = null) {
  const path = state.video.path;
  saving = saving.then(async () => {
    if (!state.video || state.video.path !== path) return;
    const labels = copy(state.labels);
    if (change(labels) === false) return;
    try {
      const body = { ...labels, version: state.labels.version, author: author() };
      const answer = await api.save(path, body);
      if (state.video.path !== path) return;
      state.mine = null;
      receive(answer);
      if (select) {
        state.selected = answer.segments.findIndex((one) => select(one));
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
  if (index < 0) return drawAll();
  const { start, stop } = state.labels.segments[index];
  return edit(
    (labels) => void (labels.segments[index].label = name),
    (one) => one.start === start && one.stop === stop && one.label === name,
  );
}

function add(start, stop) {
  const label = state.current;
  if (!label) return say("Choose a class first.", true);
  return edit(
    (labels) => void labels.segments.push({ start, stop, label }),
    (one) => Math.abs(one.start - start) < 0.5 / fps() && one.label === label,
  );
}

function move(index, start, stop) {
  const { label } = state.labels.segments[index];
  return edit(
    (labels) => void Object.assign(labels.segments[index], { start, stop }),
    (one) => Math.abs(one.start - start) < 0.5 / fps() && one.label === label,
  );
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
    const { start, stop, label } = state.labels.segments[index];
    if (!(start < time && time < stop)) return say("Go to a frame inside the segment to split it.", true);
    const split = (labels) => {
      labels.segments[index].stop = time;
      labels.segments.push({ start: time, stop, label });
    };
    return edit(split, (one) => one.start === time && one.label === label);
  },
  merge() {
    const index = state.selected;
    const next = state.labels.segments[index + 1];
    if (!next) return say("There is no segment after this one.", true);
    const { start, label } = state.labels.segments[index];
    const merge = (labels) => {
      labels.segments[index].stop = Math.max(next.stop, labels.segments[index].stop);
      labels.segments.splice(index + 1, 1);
    };
    return edit(merge, (one) => one.start === start && one.label === label);
  },
  remove() {
    const index = state.selected;
    state.selected = -1;
    return edit((labels) => void labels.segments.splice(index, 1));
  },
  undo: () => takeBack("undo"),
  redo: () => takeBack("redo"),
  accept() {
    if (!state.suggestion) return null;
    const { label, segments } = state.suggestion;
    return edit((labels) => {
      labels.label = label || labels.label;
      labels.segments = segments.map(({ start, stop, label: name }) => ({ start, stop, label: name }));
    });
  },
  mine() {
    const mine = state.mine;
    state.mine = null;
    return edit((labels) => void Object.assign(labels, mine));
  },
};

// ---- Videos

async function open(path) {
  await saving;
  Object.assign(state, { selected: -1, begun: null, suggestion: null, mine: null, labels: null });
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

function step(by) {
  const paths = [...$("videos").querySelectorAll("button")].map((button) => button.dataset.path);
  const next = paths[paths.indexOf(state.video && state.video.path) + by];
  if (next) open(next);
}

async function load() {
  try {
    const project = await api.project();
    Object.assign(state, { classes: project.classes, model: project.model });
    $("data").textContent = `vidseg annotate: ${project.name}`;
    state.current = state.classes[0] || null;
    state.videos = await api.videos();
  } catch (error) {
    return fail(error);
  }
  drawVideos();
  drawAll();
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = state.videos.find((video) => video.path === wanted) || state.videos[0];
  return first ? open(first.path) : say("The data set has no videos; convert some with `vidseg convert`.");
}

// ---- Keys

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
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() !== "z" || !state.labels || event.target.matches("input:not([type=range])")) return;
    event.preventDefault();
    actions[event.shiftKey ? "redo" : "undo"]();
    return;
  }
  if ($("help").open || event.target.matches("input:not([type=range]), select, textarea, summary")) return;
  if (event.key === "?") return void $("help").showModal();
  if (event.key === "n" || event.key === "N") return step(1);
  if (event.key === "p" || event.key === "P") return step(-1);
  if (!state.labels) return;
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
  else if (event.key === "[") edge("start");
  else if (event.key === "]") edge("stop");
  else if (/^[1-9]$/.test(event.key) && state.classes[event.key - 1]) chooseClass(state.classes[event.key - 1]);
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

// ---- Start

const player = new Player($("picture"), {
  onFrame: drawFrame,
  onState: (playing) => ($("play").textContent = playing ? "Pause" : "Play"),
  onError: fail,
});
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
$("label").addEventListener("change", () => edit((labels) => void (labels.label = $("label").value || null)));
$("help-open").addEventListener("click", () => $("help").showModal());
$("export").addEventListener("click", () => api.download($("form").value).catch(fail));
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
$("import").addEventListener("change", async () => {
  const [file] = $("import").files;
  if (!file) return;
  try {
    const report = await api.importFile($("form").value, file.name, file);
    $("import").value = "";
    await load();
    say(report.report);
  } catch (error) {
    fail(error);
  }
});
document.addEventListener("keydown", press);
load();
