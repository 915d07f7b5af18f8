// Shows frames of a video, one by one or at a speed: those of the database on a canvas; while it plays, the source video.

import { api } from "./annotate_api.js";
import { SourceVideo } from "./annotate_source.js";

const KEPT = 240; // frames
const AHEAD = 24;
const LOADING = 6; // requests at once

export class Player {
  // `onFrame(number)`, `onState(playing)`, `onError(error)`, `onSource(sentence)`: why the source is not shown
  constructor(screen, { onFrame, onState, onError, onSource }) {
    this.screen = screen;
    this.canvas = screen.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    Object.assign(this, { onFrame, onState, onError, onSource });
    this.source = new SourceVideo(screen.querySelector("video"), {
      onFrame: (number) => this._played(number),
      onEnd: () => this.pause(),
      onFail: (reason) => this._leaveSource(reason),
    });
    this.rate = 1;
    this.close();
  }

  close() {
    for (const picture of (this.pictures || new Map()).values()) picture.then((p) => p.close(), () => {});
    this.source.close();
    this.video = null;
    this.number = 0;
    this.playing = false;
    this.fromSource = false;
    this.pictures = new Map(); // frame number -> promise of an ImageBitmap
    delete this.screen.dataset.frame;
    this.screen.dataset.from = "frames";
  }

  open(video) {
    this.close();
    this.video = video;
    this.show(0);
  }

  // Plays the source from now on, or, with null, the frames of the database.
  async useSource(opened) {
    this.pause();
    const video = this.video;
    this.source.close();
    this.fromSource = false;
    if (opened && (await this.source.open(opened)) && this.video === video) {
      this.fromSource = true;
      this.onSource("");
    }
  }

  _leaveSource(reason) {
    const playing = this.playing;
    this.fromSource = false;
    this.onSource(reason);
    if (!this.video) return;
    this.show(this.number);
    if (playing) this._playFrames();
  }

  get speed() {
    return this.rate;
  }

  set speed(value) {
    this.rate = value;
    this.source.speed(value);
  }

  get fps() {
    return this.video.fps > 0 ? this.video.fps : 25;
  }

  _load(number) {
    let picture = this.pictures.get(number);
    if (!picture) {
      picture = api.frame(this.video.path, number).then((blob) => createImageBitmap(blob));
      picture.catch(() => this.pictures.delete(number));
      this.pictures.set(number, picture);
      for (const old of this.pictures.keys()) {
        if (this.pictures.size <= KEPT) break;
        if (Math.abs(old - this.number) > AHEAD) {
          this.pictures.get(old).then((p) => p.close(), () => {});
          this.pictures.delete(old);
        }
      }
    }
    return picture;
  }

  _shown(number, from) {
    this.screen.dataset.from = from;
    this.screen.dataset.frame = number;
  }

  show(number) {
    if (!this.video || !this.video.frames) return Promise.resolve();
    this.number = Math.max(0, Math.min(this.video.frames - 1, number));
    this.onFrame(this.number);
    if (this.playing && this.fromSource) return this.source.play(this.number, this.rate); // from there
    return this._showFrame(this.number);
  }

  // Draws a frame of the database if it is still wanted when it has come.
  async _showFrame(wanted) {
    const video = this.video;
    if (this.screen.dataset.frame !== String(wanted)) delete this.screen.dataset.frame; // until it is shown
    try {
      const picture = await this._load(wanted);
      if (this.video !== video || this.number !== wanted) return;
      if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
        this.canvas.width = picture.width;
        this.canvas.height = picture.height;
      }
      this.context.drawImage(picture, 0, 0);
      this._shown(wanted, "frames");
    } catch (error) {
      if (this.video === video) {
        this.pause();
        this.onError(error);
      }
    }
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  pause() {
    const before = this.playing;
    this.playing = false;
    this.source.pause();
    if (before) this.onState(false);
    if (before && this.fromSource) this._showFrame(this.number);
  }

  play() {
    if (!this.video) return;
    if (this.number >= this.video.frames - 1) this.number = 0;
    this.playing = true;
    this.onState(true);
    if (this.fromSource) this.source.play(this.number, this.rate);
    else this._playFrames();
  }

  _played(number) {
    this.number = number;
    this._shown(number, "source");
    this.onFrame(number);
  }

  async _playFrames() {
    const video = this.video;
    let first = this.number;
    let began = performance.now();
    let speed = this.rate;
    while (this.playing && this.video === video && !this.fromSource) {
      for (let ahead = 1; ahead <= Math.min(AHEAD, LOADING * Math.ceil(speed)); ahead++) {
        if (this.number + ahead < video.frames) this._load(this.number + ahead);
      }
      await new Promise(requestAnimationFrame);
      if (speed !== this.rate) {
        [first, began, speed] = [this.number, performance.now(), this.rate];
      }
      const due = first + Math.floor(((performance.now() - began) / 1000) * this.fps * speed);
      const next = Math.min(due, video.frames - 1);
      if (this.number < first || this.number > next) {
        [first, began] = [this.number, performance.now()]; // someone sought
        continue;
      }
      if (next === this.number) continue;
      await this.show(next);
      if (this.number !== next) [first, began] = [this.number, performance.now()];
      else if (next === video.frames - 1) this.pause();
    }
  }
}
