// The page of the server: a video or the camera in, labels on a time line out. No library, no build step.
import { color, drawTimeline, lanesOf } from "/pages/timeline.js";
import { startCamera } from "/pages/camera.js";
import { call, setToken, token } from "/pages/server.js";

const $ = id => document.getElementById(id);
const POLL = [100, 1000]; // milliseconds between two questions for a job

let models = [];
let job = null; // id of the job that is shown or awaited
let result = null;
let rows = []; // segments or detections that are shown
let duration = 0;
let camera = null;

const model = () => models.find(each => each.name === $("model").value);
const say = text => { $("status").textContent = text; };
const seconds = value => value === null || value === undefined ? "" : value.toFixed(2);

function fail(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
  $("working").hidden = true;
  say("");
  if (error.status === 401) { $("login").hidden = false; $("token").focus(); }
}

function clear() {
  $("problem").hidden = true;
  $("result").hidden = true;
  $("working").hidden = true;
  $("label").textContent = "";
  result = null; rows = []; job = null;
}

function unit() { return result?.unit === "frames" ? "frames" : "s"; }

// Models

async function loadModels() {
  models = (await call("/v1/models")).models;
  $("login").hidden = true;
  $("model").replaceChildren(...models.map(each => new Option(`${each.name} (${each.task})`, each.name)));
  showModel();
}

function showModel() {
  const found = model();
  if (!found) return;
  $("facts").textContent = `${found.network}, ${found.classes.length} classes`;
  const features = found.takes === "features";
  $("wanted").textContent = features ? "Drop a .npy file of features here" : "Drop a video here";
  $("camera").hidden = !found.streams;
  $("rate").hidden = !features;
}

// Upload and job

async function send(file) {
  stopCamera();
  clear();
  const features = model().takes === "features";
  if (!features) showVideo(file);
  else $("player").hidden = true;
  const query = new URLSearchParams({ name: file.name.slice(0, 200) });
  if (model().task === "recognition" && model().streams) query.set("timeline", "true");
  if (features && $("fps").value) query.set("fps", $("fps").value);
  say(`Sending ${file.name}`);
  $("progress").removeAttribute("value");
  $("working").hidden = false;
  try {
    const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), each => each.toString(16).padStart(2, "0")).join("");
    const found = await call(`/v1/models/${encodeURIComponent(model().name)}/jobs?${query}`,
      { method: "POST", body: file, headers: { "Idempotency-Key": key } });
    history.replaceState(null, "", `#job=${found.id}`);
    await follow(found.id);
  } catch (error) { fail(error); }
}

async function follow(id) {
  job = id;
  let pause = POLL[0];
  $("working").hidden = false;
  for (;;) {
    let state;
    try { state = await call(`/v1/jobs/${encodeURIComponent(id)}`); }
    catch (error) {
      if (error.status) throw error;
      say("The server cannot be reached; trying again"); // it may be restarting
      await new Promise(done => setTimeout(done, POLL[1]));
      continue;
    }
    if (job !== id) return;
    if (state.state === "done") break;
    if (state.state === "failed") throw new Error(state.error);
    if (state.state === "canceled") { $("working").hidden = true; say("Canceled."); return; }
    $("progress").value = state.progress;
    say(state.state === "waiting" ? "Waiting for other jobs" : `Computing, ${Math.round(100 * state.progress)} %`);
    await new Promise(done => setTimeout(done, pause));
    pause = Math.min(POLL[1], pause * 1.3);
  }
  const found = await call(`/v1/jobs/${encodeURIComponent(id)}/result`);
  $("working").hidden = true;
  show(found);
}

async function cancel() {
  if (!job) return;
  try { await call(`/v1/jobs/${encodeURIComponent(job)}`, { method: "DELETE" }); } catch (error) { fail(error); }
}

function showVideo(file) {
  const video = $("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.controls = true;
  video.src = URL.createObjectURL(file);
  $("player").hidden = false;
  video.onerror = () => { $("player").hidden = true; say("This browser cannot play the file; the time line works without it."); };
}

// Result

function show(found) {
  result = found;
  duration = found.seconds ?? found.frames ?? 0;
  $("score-part").hidden = !found.detections;
  $("share").textContent = found.detections ? "Score" : "Probability";
  $("classes").replaceChildren(...(found.classes ?? []).map(each => {
    const item = document.createElement("li");
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.append(document.createElement("span"));
    bar.firstChild.style.width = `${100 * each.probability}%`;
    const [name, share] = [document.createElement("span"), document.createElement("span")];
    name.textContent = each.label;
    share.textContent = `${(100 * each.probability).toFixed(1)} %`;
    item.append(name, bar, share);
    return item;
  }));
  const timed = Boolean(found.segments || found.detections);
  $("timeline-part").hidden = $("table-part").hidden = !timed;
  $("curve-hint").hidden = !found.timeline;
  for (const button of $("downloads").children)
    button.hidden = ["srt", "vtt"].includes(button.dataset.form) && !(timed && found.unit === "seconds");
  $("result").hidden = false;
  showRows();
  const [one, many] = found.detections ? ["action", "actions"] : ["segment", "segments"];
  const limit = found.detections ? ` with a score of at least ${$("score-value").textContent}` : "";
  const said = `${rows.length} ${rows.length === 1 ? one : many}${limit}`;
  say(timed ? `Done: ${said} in ${duration.toFixed(1)} ${unit()}.` : `Done: ${found.classes[0].label}.`);
}

function showRows() {
  const smallest = Number($("score").value);
  $("score-value").textContent = smallest.toFixed(2);
  rows = result.segments ?? (result.detections ?? []).filter(each => each.score >= smallest);
  rows = [...rows].sort((one, other) => one.start - other.start);
  const names = model()?.classes ?? [];
  const lanes = lanesOf(rows, Boolean(result.detections));
  drawTimeline($("drawing"), { rows, lanes, duration, curve: result.timeline, names });
  const shown = [...new Set(rows.map(each => each.label))];
  $("legend").replaceChildren(...shown.map(name => {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = color(name, names);
    item.append(swatch, name);
    return item;
  }));
  const body = $("table").tBodies[0];
  body.replaceChildren(...rows.slice(0, 2000).map(each => {
    const row = document.createElement("tr");
    const go = document.createElement("button");
    go.type = "button";
    go.textContent = each.label;
    go.addEventListener("click", () => seek(each.start));
    const cells = [go, seconds(each.start), seconds(each.stop), (each.score ?? each.probability).toFixed(3)];
    row.append(...cells.map(cell => { const place = document.createElement("td"); place.append(cell); return place; }));
    return row;
  }));
  const slider = $("timeline");
  slider.setAttribute("aria-valuemax", duration.toFixed(2));
  showTime(now());
}

let still = 0; // time shown where there is no video
function now() { return $("player").hidden ? still : $("video").currentTime; }

function at(time) {
  return rows.filter(each => each.start <= time && time < each.stop)
    .sort((one, other) => (other.score ?? other.probability) - (one.score ?? one.probability));
}

function showTime(time) {
  if (!result) return;
  const here = at(time);
  const text = here.slice(0, 3).map(each => `${each.label} ${Math.round(100 * (each.score ?? each.probability))} %`).join(", ");
  $("label").textContent = text;
  const slider = $("timeline");
  slider.setAttribute("aria-valuenow", time.toFixed(2));
  slider.setAttribute("aria-valuetext", `${time.toFixed(2)} ${unit()}${text ? ", " + text : ""}`);
  $("cursor").style.left = duration ? `${100 * Math.min(1, time / duration)}%` : "0";
  const body = $("table").tBodies[0];
  for (let index = 0; index < body.rows.length; index++)
    body.rows[index].classList.toggle("now", rows[index].start <= time && time < rows[index].stop);
}

function seek(time) {
  still = Math.max(0, Math.min(time, duration));
  if (!$("player").hidden) $("video").currentTime = Math.min(still, Math.max(0, ($("video").duration || duration) - 1e-3));
  showTime(still);
}

function key(event) {
  const frame = 1 / (result?.fps || 25), time = now();
  const starts = rows.map(each => each.start);
  const moves = {
    ArrowLeft: () => time - (event.shiftKey ? frame : 1),
    ArrowRight: () => time + (event.shiftKey ? frame : 1),
    PageDown: () => starts.find(start => start > time + 1e-3) ?? duration,
    PageUp: () => starts.filter(start => start < time - 1e-3).at(-1) ?? 0,
    Home: () => 0,
    End: () => duration,
  };
  if (event.key === " " && !$("player").hidden) {
    event.preventDefault();
    if ($("video").paused) $("video").play(); else $("video").pause();
  } else if (moves[event.key]) { event.preventDefault(); seek(moves[event.key]()); }
}

async function download(form) {
  try {
    let text;
    if (form === "json" || camera || !job) text = JSON.stringify(result, null, 1);
    else text = await call(`/v1/jobs/${encodeURIComponent(job)}/result?form=${form}`, {}, true);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text]));
    link.download = `result.${form}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) { fail(error); }
}

// Camera

async function openCamera() {
  clear();
  stopCamera();
  history.replaceState(null, "", location.pathname);
  const video = $("video");
  try {
    camera = await startCamera(video, model().name, token(), {
      labels(segments) {
        result = { segments: [...(result?.segments ?? []), ...segments], unit: "seconds", fps: camera?.fps ?? 15 };
        result.segments = joined(result.segments).slice(-500);
        const last = result.segments.at(-1);
        duration = last.stop;
        $("result").hidden = false;
        $("timeline-part").hidden = $("table-part").hidden = false;
        $("score-part").hidden = true;
        for (const button of $("downloads").children) button.hidden = button.dataset.form !== "json";
        $("curve-hint").hidden = true;
        showRows();
        $("label").textContent = `${last.label} ${Math.round(100 * last.probability)} %`;
        $("cursor").style.left = "100%";
      },
      status: say,
      latency: value => { $("latency").textContent = `Latency ${value.toFixed(2)} s`; },
      failed: error => { fail(error); stopCamera(); },
    });
    $("player").hidden = false;
    $("stop").hidden = $("latency").hidden = false;
    say("The camera is open.");
  } catch (error) { camera = null; fail(error); }
}

function joined(segments) {
  const found = [];
  for (const each of segments) {
    const last = found.at(-1);
    if (last && last.label === each.label && Math.abs(last.stop - each.start) < 0.5) {
      const [one, other] = [last.stop - last.start, each.stop - each.start];
      last.probability = (last.probability * one + each.probability * other) / Math.max(1e-9, one + other);
      last.stop = each.stop;
    } else found.push({ ...each });
  }
  return found;
}

function stopCamera() {
  if (!camera) return;
  camera.stop();
  camera = null;
  $("stop").hidden = $("latency").hidden = true;
  $("video").srcObject = null;
  say("The camera is closed.");
}

// Events

$("model").addEventListener("change", showModel);
$("browse").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) send($("file").files[0]); $("file").value = ""; });
$("camera").addEventListener("click", openCamera);
$("stop").addEventListener("click", stopCamera);
$("cancel").addEventListener("click", cancel);
$("score").addEventListener("input", showRows);
$("timeline").addEventListener("keydown", key);
$("timeline").addEventListener("click", event => {
  const box = $("timeline").getBoundingClientRect();
  seek(duration * (event.clientX - box.left) / box.width);
});
for (const kind of ["timeupdate", "seeked"]) $("video").addEventListener(kind, () => { if (!camera) showTime(now()); });
for (const button of $("downloads").children) button.addEventListener("click", () => download(button.dataset.form));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
window.addEventListener("resize", () => { if (result && (result.segments || result.detections)) showRows(); });
$("login").addEventListener("submit", event => { event.preventDefault(); setToken($("token").value); begin(); });

async function begin() {
  $("problem").hidden = true;
  try {
    await loadModels();
    const found = /^#job=([0-9a-f]{32})$/.exec(location.hash);
    if (found) {
      const state = await call(`/v1/jobs/${found[1]}`);
      if (models.some(each => each.name === state.model)) $("model").value = state.model;
      showModel();
      await follow(found[1]);
    }
  } catch (error) { fail(error); }
}

begin();
