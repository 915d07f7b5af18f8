// The source video of a data set's video, played by the browser. The browser says the time of each frame that it
// presents (requestVideoFrameCallback), and the server the times of the database's frames: so a frame has its number.

export class SourceVideo {
  // `onFrame(number)` while it plays, `onEnd()`, `onFail(sentence)` once it cannot be shown
  constructor(element, handlers) {
    this.element = element;
    this.handlers = handlers;
    element.addEventListener("error", () => this._fail(`this browser cannot play ${this._name()}`));
    element.addEventListener("loadedmetadata", () => {
      if (!element.videoWidth) this._fail(`this browser plays no pictures of ${this._name()}`);
    });
    element.addEventListener("ended", () => this.playing && this.handlers.onEnd());
  }

  _name() {
    return this.opened ? `${this.opened.file} (${this.opened.codec})` : "the video";
  }

  // Resolves, when the first frame is there, to whether the video can be played; `opened` is the server's description.
  open(opened) {
    this.close();
    this.opened = opened;
    const waiting = new Promise((resolve) => (this._first = resolve));
    if (!this.element.requestVideoFrameCallback) this._fail("this browser does not say which frame it shows");
    else {
      this._listen(opened);
      this.element.src = opened.address;
    }
    return waiting;
  }

  close() {
    this.opened = null;
    this.playing = false;
    this.shift = null; // seconds of the first frame of the file on the browser's clock
    this.soughtAt = 0;
    this.element.pause();
    if (this.element.hasAttribute("src")) {
      this.element.removeAttribute("src");
      this.element.load();
    }
  }

  _fail(reason) {
    if (!this.opened) return;
    const first = this._first;
    this.close();
    first(false);
    this.handlers.onFail(reason);
  }

  _listen(opened) {
    this.element.requestVideoFrameCallback((_, { mediaTime, presentationTime }) => {
      if (this.opened !== opened) return;
      this._listen(opened);
      if (this.shift === null) {
        this.shift = mediaTime;
        this._first(true);
      }
      const number = this._number(mediaTime - this.shift);
      this.element.dataset.number = number;
      const isOld = this.element.seeking || presentationTime < this.soughtAt; // from before a search
      if (!this.playing || isOld) return;
      this.handlers.onFrame(number);
      if (number === opened.times.length - 1) this.handlers.onEnd();
    });
  }

  // The last frame that has begun at a time; the clock of a file can be as coarse as a millisecond.
  _number(time) {
    const { times } = this.opened;
    let [low, high] = [0, times.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const gap = times[middle] - times[middle - 1];
      if (times[middle] <= time + Math.min(2e-3, gap / 4)) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async play(number, speed) {
    const { opened } = this;
    const { times, seconds } = opened;
    this.playing = true;
    this.soughtAt = performance.now();
    // the middle of a frame: its ends can be rounded to its neighbor
    this.element.currentTime = this.shift + (times[number] + (times[number + 1] ?? seconds)) / 2;
    this.speed(speed);
    try {
      await this.element.play();
    } catch (error) {
      if (error.name !== "AbortError" && this.opened === opened) this._fail(`it cannot be played: ${error.message}`);
    }
  }

  speed(value) {
    this.element.playbackRate = value;
  }

  pause() {
    this.playing = false;
    this.element.pause();
  }
}
