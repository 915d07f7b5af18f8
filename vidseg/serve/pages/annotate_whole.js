// The class of the whole video, or a set of classes.

import { colorOf } from "./annotate_timeline.js";

const $ = (id) => document.getElementById(id);

export class WholeVideo {
  // `edit(change)` sends what `change` makes of the labels, `say(text, isError)` shows a sentence
  constructor({ edit, say }) {
    this.edit = edit;
    this.say = say;
    this.labels = null;
    this.chosen = null; // "one" or "several", chosen for the next videos without a class
    $("several").addEventListener("change", () => this._choose($("several").value));
    $("label").addEventListener("change", () => this._set($("label").value || null));
  }

  draw({ labels, classes, videos, suggestion }) {
    this.labels = labels;
    this.several = this._several(labels, videos);
    $("several").value = this.several ? "several" : "one";
    $("label").hidden = this.several;
    $("set").hidden = !this.several;
    const label = (labels && labels.label) || "";
    $("label").replaceChildren(
      ...["", ...classes].map((name) => new Option(name || "(none)", name, false, name === label)),
    );
    const focused = $("set").contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
    const set = labels && labels.classes;
    $("set").replaceChildren(
      this._button("none of them", "", set !== null && set !== undefined && !set.length),
      ...classes.map((name, number) => {
        const button = this._button(number < 9 ? `⇧${number + 1} ${name}` : name, name, Boolean(set?.includes(name)));
        button.setAttribute("aria-label", name);
        button.style.borderLeftColor = colorOf(classes, name);
        return button;
      }),
    );
    if (focused !== undefined) [...$("set").children].find((each) => each.dataset.name === focused)?.focus();
    const sure = suggestion && suggestion.label && Math.round(100 * (1 - suggestion.uncertainty));
    $("suggested-class").value = sure || sure === 0 ? `Suggestion: ${suggestion.label}, ${sure} %` : "";
  }

  _button(text, name, pressed) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.dataset.name = name;
    button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", () => this.toggle(name || null));
    return button;
  }

  // Data sets with sets of classes have them for each video.
  _several(labels, videos) {
    if (labels && labels.classes) return true;
    if (labels && labels.label) return false;
    return this.chosen ? this.chosen === "several" : videos.some((video) => video.classes);
  }

  _choose(kind) {
    this.chosen = kind;
    const { label, classes } = this.labels;
    if (kind === "several") {
      if (!label) return this.edit(() => false); // draws the buttons
      return this.edit((labels) => void Object.assign(labels, { label: null, classes: [label] }));
    }
    if (classes && classes.length > 1) {
      $("several").value = "several";
      this.chosen = "several";
      return this.say("Take classes away until one is left.", true);
    }
    return this.edit((labels) => void Object.assign(labels, { label: (labels.classes || [])[0] || labels.label, classes: null }));
  }

  _set(name) {
    return this.edit((labels) => void (labels.label = name));
  }

  // Gives the video a class, or takes it away; null: no class.
  toggle(name) {
    if (name === undefined) return null;
    if (!this.several) return this._set(name === this.labels.label ? null : name);
    return this.edit((labels) => {
      const before = labels.classes || [];
      if (name === null) labels.classes = before.length || !labels.classes ? [] : null;
      else if (before.includes(name)) labels.classes = before.filter((each) => each !== name);
      else labels.classes = [...before, name];
      labels.label = null;
    });
  }

  // Takes a suggested class over.
  accept(labels, name) {
    if (!this.several) labels.label = name;
    else labels.classes = [...new Set([...(labels.classes || []), name])];
  }
}
