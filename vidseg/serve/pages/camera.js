// The camera as a stream of JPEG frames; the server keeps the stream's memory, also over a lost connection.

const FPS = 15, SIDE = 320, BACKLOG = 1 << 20, RETRIES = 5;

export async function startCamera(video, model, token, on) {
  if (!navigator.mediaDevices) throw new Error("The browser gives the camera to pages of localhost and of https only.");
  let media;
  try { media = await navigator.mediaDevices.getUserMedia({ video: { width: 640, facingMode: "environment" }, audio: false }); }
  catch (error) { throw new Error(`The camera cannot be opened: ${error.message}`); }
  video.removeAttribute("src");
  video.srcObject = media;
  video.controls = false;
  await video.play();
  const canvas = document.createElement("canvas");
  const begin = performance.now();
  let socket, session = null, labeled = 0, timer, stopped = false, tries = 0, ready = false, encoding = false;

  function connect() {
    socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/models/${encodeURIComponent(model)}/stream`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      const start = { type: "start", format: "jpeg", fps: FPS, times: true };
      if (token) start.token = token;
      if (session) { start.session = session; start.labeled = labeled; }
      socket.send(JSON.stringify(start));
    };
    socket.onmessage = event => {
      const message = JSON.parse(event.data);
      if (message.type === "started") { session = message.session; ready = true; tries = 0; }
      if (message.type === "labels" && message.frames) {
        labeled = message.first + message.frames;
        on.labels(message.segments);
        if (message.latency !== null && message.frames > 1) on.latency(message.latency);
      }
      if (message.type === "error" && message.status !== 503) { stopped = true; on.failed(new Error(message.message)); }
    };
    socket.onclose = () => {
      ready = false;
      if (stopped) return;
      if (++tries > RETRIES) { on.failed(new Error("The connection to the server was lost.")); return; }
      on.status("The connection was lost; trying again");
      setTimeout(connect, 1000);
    };
  }

  function send() {
    if (!ready || encoding || socket.bufferedAmount > BACKLOG || !video.videoWidth) return; // frames are left out
    const scale = Math.min(1, SIDE / Math.min(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const time = (performance.now() - begin) / 1000;
    encoding = true;
    canvas.toBlob(async blob => {
      const jpeg = new Uint8Array(await blob.arrayBuffer());
      const message = new Uint8Array(8 + jpeg.length);
      new DataView(message.buffer).setFloat64(0, time, true);
      message.set(jpeg, 8);
      if (ready && socket.readyState === WebSocket.OPEN) socket.send(message);
      encoding = false;
    }, "image/jpeg", 0.85);
  }

  connect();
  timer = setInterval(send, 1000 / FPS);
  return {
    fps: FPS,
    stop() {
      stopped = true;
      clearInterval(timer);
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "finish" }));
      for (const track of media.getTracks()) track.stop();
    },
  };
}
