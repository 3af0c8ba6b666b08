// The canvas: a picture and its result under each other or side by side, moved and zoomed together.
// A point of the view is one of the picture, in its pixels; overlays are drawn by whoever sets `overlay`.

const DARK = "#2b2d2f", MARK = "#eb3c28";

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.picture = this.result = this.patch = null;
    this.mode = "slider";
    this.split = 0.5;
    this.other = false; // whether space or blinking shows the picture
    this.overlay = null; // draws onto (context, toScreen, half)
    this.halves = 1; // of the mode "explain"
    this.pick = null; // called with x and y of a pixel that was clicked
    this.zoom = 1; // screen pixels per pixel of the picture
    this.centre = [0, 0];
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
  }

  show(picture, result) {
    const same = this.picture && picture.width === this.picture.width && picture.height === this.picture.height;
    [this.picture, this.result, this.patch] = [picture, result, null];
    if (!same || !this.fitted) this.fit();
    this.draw();
  }

  // Of how many screen pixels the view is, and how many views there are.
  get views() {
    const halves = this.mode === "side" ? 2 : this.mode === "explain" ? this.halves : 1;
    return { halves, width: this.canvas.width / halves, height: this.canvas.height };
  }

  get scale() {
    return this.result ? this.result.width / this.picture.width : 1;
  }

  resize() {
    const ratio = devicePixelRatio;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.whole) this.fit();
    this.draw();
  }

  fit() {
    if (!this.picture) return;
    const { width, height } = this.views;
    this.zoom = Math.min(width / this.picture.width, height / this.picture.height);
    this.centre = [this.picture.width / 2, this.picture.height / 2];
    this.fitted = this.whole = true;
    this.draw();
  }

  // One pixel of the result is one of the screen.
  actual() {
    this.zoomTo(this.scale);
  }

  zoomTo(zoom, at = [this.views.width / 2, this.views.height / 2]) {
    const before = this.toPicture(at);
    this.zoom = Math.min(Math.max(zoom, 0.02), 64 * this.scale);
    const after = this.toPicture(at);
    this.centre = this.centre.map((value, axis) => value + before[axis] - after[axis]);
    this.whole = false;
    this.draw();
  }

  pan(dx, dy) {
    const bounds = this.picture ? [this.picture.width, this.picture.height] : [0, 0];
    this.centre = this.centre.map((value, axis) =>
      Math.min(Math.max(value + [dx, dy][axis] / this.zoom, 0), bounds[axis]));
    this.whole = false;
    this.draw();
  }

  toPicture([x, y]) {
    const { width, height } = this.views;
    return [(x % width - width / 2) / this.zoom + this.centre[0], (y - height / 2) / this.zoom + this.centre[1]];
  }

  toScreen = ([x, y]) => {
    const { width, height } = this.views;
    return [(x - this.centre[0]) * this.zoom + width / 2, (y - this.centre[1]) * this.zoom + height / 2];
  };

  draw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = DARK;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.picture) return;
    const { halves, width, height } = this.views;
    for (let half = 0; half < halves; half += 1) {
      context.save();
      context.translate(half * width, 0);
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      const better = this.result && !this.other && !(this.mode === "side" && half === 0);
      this.#paint(context, better ? this.result : this.picture);
      if (this.mode === "slider" && this.result && !this.other) this.#paintSlider(context, width, height);
      if (this.patch) this.#paint(context, this.patch.image, this.patch);
      if (this.mode === "explain" && this.overlay) this.overlay(context, this.toScreen, half);
      context.restore();
    }
    if (halves > 1) this.#line(context, width, height);
  }

  #paint(context, image, place = { left: 0, top: 0, width: this.picture.width, height: this.picture.height }) {
    const [left, top] = this.toScreen([place.left, place.top]);
    context.imageSmoothingEnabled = this.zoom * (place.width / image.width) < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, left, top, place.width * this.zoom, place.height * this.zoom);
  }

  #paintSlider(context, width, height) {
    const at = this.split * width;
    context.save();
    context.beginPath();
    context.rect(0, 0, at, height);
    context.clip();
    context.fillStyle = DARK;
    context.fillRect(0, 0, at, height);
    this.#paint(context, this.picture);
    context.restore();
    this.#line(context, at, height);
  }

  #line(context, at, height) {
    context.fillStyle = "#fff";
    context.fillRect(at - 1, 0, 2, height);
    context.fillStyle = MARK;
    context.fillRect(at - 3, height / 2 - 20, 6, 40);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((value) => value * devicePixelRatio);
  }

  #wheel(event) {
    event.preventDefault();
    const at = this.#at(event);
    this.zoomTo(this.zoom * Math.exp(-event.deltaY / 400), [at[0] % this.views.width, at[1]]);
  }

  #down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.#at(event);
    this.pointers.set(event.pointerId, at);
    this.moved = 0;
    this.sliding = this.mode === "slider" && this.result && this.pointers.size === 1
      && Math.abs(at[0] - this.split * this.canvas.width) < 16 * devicePixelRatio;
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const at = this.#at(event);
    const apart = () => {
      const [a, b] = [...this.pointers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    if (this.pointers.size === 2) {
      const old = apart();
      this.pointers.set(event.pointerId, at);
      this.zoomTo(this.zoom * apart() / Math.max(old, 1), at);
    } else if (this.sliding) {
      this.setSplit(at[0] / this.canvas.width);
    } else {
      this.pan(before[0] - at[0], before[1] - at[1]);
    }
    this.moved += Math.hypot(at[0] - before[0], at[1] - before[1]);
    this.pointers.set(event.pointerId, at);
  }

  #up(event) {
    const at = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (at && event.type === "pointerup" && this.moved < 5 && this.mode === "explain" && this.picture && this.pick) {
      const [x, y] = this.toPicture(at).map(Math.floor);
      if (x >= 0 && y >= 0 && x < this.picture.width && y < this.picture.height) this.pick(x, y);
    }
  }

  setSplit(part) {
    this.split = Math.min(Math.max(part, 0), 1);
    this.slid?.(this.split);
    this.draw();
  }
}
