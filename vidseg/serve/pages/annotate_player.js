// Shows frames of a video on a canvas: one by one, or at a speed. Frames ahead are loaded while it plays.

import { api } from "./annotate_api.js";

const KEPT = 240; // frames
const AHEAD = 24;
const LOADING = 6; // requests at once

export class Player {
  constructor(canvas, { onFrame, onState, onError }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onFrame = onFrame;
    this.onState = onState;
    this.onError = onError;
    this.speed = 1;
    this.close();
  }

  close() {
    for (const picture of (this.pictures || new Map()).values()) picture.then((p) => p.close(), () => {});
    this.video = null;
    this.number = 0;
    this.playing = false;
    this.pictures = new Map(); // frame number -> promise of an ImageBitmap
  }

  open(video) {
    this.close();
    this.video = video;
    this.show(0);
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

  async show(number) {
    if (!this.video || !this.video.frames) return;
    const video = this.video;
    this.number = Math.max(0, Math.min(video.frames - 1, number));
    const wanted = this.number;
    this.onFrame(wanted);
    try {
      const picture = await this._load(wanted);
      if (this.video !== video || this.number !== wanted) return;
      if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
        this.canvas.width = picture.width;
        this.canvas.height = picture.height;
      }
      this.context.drawImage(picture, 0, 0);
      this.canvas.dataset.frame = wanted;
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
    this.playing = false;
    this.onState(false);
  }

  async play() {
    if (!this.video) return;
    const video = this.video;
    if (this.number >= video.frames - 1) this.number = 0;
    this.playing = true;
    this.onState(true);
    let first = this.number;
    let began = performance.now();
    let speed = this.speed;
    while (this.playing && this.video === video) {
      for (let ahead = 1; ahead <= Math.min(AHEAD, LOADING * Math.ceil(this.speed)); ahead++) {
        if (this.number + ahead < video.frames) this._load(this.number + ahead);
      }
      await new Promise(requestAnimationFrame);
      if (speed !== this.speed) {
        [first, began, speed] = [this.number, performance.now(), this.speed];
      }
      const due = first + Math.floor(((performance.now() - began) / 1000) * this.fps * speed);
      const next = Math.min(due, video.frames - 1);
      if (next === this.number) continue;
      await this.show(next);
      if (next > this.number) break; // someone sought back
      if (this.number !== next) [first, began] = [this.number, performance.now()];
      if (next === video.frames - 1) this.pause();
    }
  }
}
