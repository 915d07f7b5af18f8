// The source video of a data set's video, played by the browser. A frame has the number of the database: the browser
// says the time of each frame that it presents (requestVideoFrameCallback), and the server the times of the database.

const WAIT = 8000; // ms until a frame that was sought is given up

export class SourceVideo {
  // `onFrame(number)` while it plays, `onEnd()`, `onFail(sentence)` once it cannot be shown
  constructor(element, handlers) {
    this.element = element;
    this.handlers = handlers;
    this.ready = false;
    element.addEventListener("error", () => this._fail(`this browser cannot play ${this._name()}`));
    element.addEventListener("loadedmetadata", () => {
      if (!element.videoWidth) this._fail(`this browser plays no pictures of ${this._name()}`);
    });
    element.addEventListener("ended", () => this.opened && this.handlers.onEnd());
    element.addEventListener("seeked", () => this._sought());
  }

  _name() {
    return this.opened ? `${this.opened.file} (${this.opened.codec})` : "the video";
  }

  // Resolves when the first frame is there; `opened` is the server's description.
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
    this.ready = false;
    this.shift = null; // seconds of the first frame of the file on the browser's clock
    this.presented = -1;
    this.target = null;
    clearTimeout(this.timer);
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
    this.element.requestVideoFrameCallback((_, { mediaTime }) => {
      if (this.opened !== opened) return;
      if (this.shift === null) this.shift = mediaTime;
      this.presented = this._number(mediaTime - this.shift);
      if (!this.ready) {
        this.ready = true;
        this._first(true);
      }
      this._listen(opened);
      if (this.playing) this._played();
      else this._sought();
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

  _played() {
    this.handlers.onFrame(this.presented);
    if (this.presented === this.opened.times.length - 1 && !this.element.ended) this.handlers.onEnd();
  }

  get playing() {
    return this.ready && !this.element.paused;
  }

  async play(number, speed) {
    const opened = this.opened;
    if (!(await this.seek(number)) || this.opened !== opened) return false;
    this.speed(speed);
    try {
      await this.element.play();
    } catch (error) {
      if (error.name !== "AbortError") this._fail(`it cannot be played: ${error.message}`);
      return false;
    }
    return true;
  }

  speed(value) {
    this.element.playbackRate = value;
  }

  pause() {
    this.element.pause();
  }

  // Resolves to whether frame `number` is presented; false if another one is wanted meanwhile.
  seek(number) {
    if (this.target) this.target.resolve(false);
    clearTimeout(this.timer);
    if (this.presented === number && !this.element.seeking && !this.playing) {
      this.target = null;
      return Promise.resolve(true);
    }
    return new Promise((resolve) => {
      const busy = this.element.seeking;
      this.target = { number, resolve };
      this._expect(number);
      if (!busy) this._go();
    });
  }

  _expect(number) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (document.hidden) this._expect(number); // frames of a hidden page are not presented
      else this._fail(`it shows frame ${this.presented + 1} where the database has frame ${number + 1}`);
    }, WAIT);
  }

  _go() {
    const { times, seconds } = this.opened;
    const { number } = this.target;
    // the middle of a frame: its ends can be rounded to its neighbor
    const middle = (times[number] + (times[number + 1] ?? seconds)) / 2;
    this.target.sought = true;
    this.element.currentTime = this.shift + middle;
  }

  _sought() {
    if (!this.target || !this.ready || this.element.seeking) return;
    if (!this.target.sought) this._go();
    else if (this.presented === this.target.number) {
      clearTimeout(this.timer);
      const { resolve } = this.target;
      this.target = null;
      resolve(true);
    }
  }
}
