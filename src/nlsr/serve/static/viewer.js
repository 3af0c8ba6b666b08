// The canvas: a picture and what is compared with it, which is its result or a preview of a part, under each other or
// side by side, moved and zoomed together. A point of the view is one of the picture, in its pixels; overlays are drawn
// by whoever sets `overlay`.

const DARK = "#2b2d2f", MARK = "#eb3c28";

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.picture = this.result = null;
    this.patch = null; // { image, left, top, width, height }: a part of the picture, previewed
    this.mode = "slider";
    this.split = 0.5;
    this.other = false; // whether space or blinking shows the picture
    this.overlay = null; // draws onto (context, toScreen, half)
    this.titles = [""]; // of the views of the mode "explain"
    this.pick = this.hover = null; // called with x and y of a pixel that is clicked, or under the pointer
    this.slid = this.zoomed = null; // called with the place of the slider, and after the zoom changed
    this.zoom = 1; // screen pixels per pixel of the picture
    this.centre = [0, 0];
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.#twice(event));
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
  }

  // null for the picture clears the view.
  show(picture, result = null) {
    const same = picture && this.picture && picture.width === this.picture.width && picture.height === this.picture.height;
    for (const old of [this.picture, this.result]) if (old !== picture && old !== result) old?.close();
    [this.picture, this.result, this.patch] = [picture, result, null];
    if (!same) this.fit();
    this.zoomed?.();
    this.draw();
  }

  preview(patch) {
    this.patch = patch;
    this.draw();
  }

  // How many views there are side by side, and of how many screen pixels each is.
  get views() {
    const halves = this.mode === "side" ? 2 : this.mode === "explain" ? this.titles.length : 1;
    return { halves, width: this.canvas.width / halves, height: this.canvas.height };
  }

  // The part of the picture that is in view, in whole pixels; at most `side` wide and high, around the middle.
  visible(side) {
    const { width, height } = this.views;
    const [left, size] = [[], []];
    [width, height].forEach((screen, axis) => {
      const bound = [this.picture.width, this.picture.height][axis];
      const seen = [-1, 1].map((sign) => Math.min(Math.max(this.centre[axis] + sign * screen / 2 / this.zoom, 0), bound));
      const middle = (seen[0] + seen[1]) / 2;
      size[axis] = Math.max(1, Math.min(Math.ceil(seen[1] - seen[0]), side, bound));
      left[axis] = Math.round(Math.min(Math.max(middle - size[axis] / 2, 0), bound - size[axis]));
    });
    return { left: left[0], top: left[1], width: size[0], height: size[1] };
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
    this.whole = true;
    this.zoomed?.();
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
    this.zoomed?.();
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
    const compared = this.result || this.patch;
    const name = this.result ? "result" : "preview";
    for (let half = 0; half < halves; half += 1) {
      context.save();
      context.translate(half * width, 0);
      clip(context, width, height);
      const better = compared && !this.other && !(this.mode === "side" && half === 0);
      this.#paint(context, better && this.result ? this.result : this.picture);
      if (better && this.patch) this.#paintPatch(context);
      if (this.mode === "explain") {
        this.overlay?.(context, this.toScreen, half);
        this.#label(context, this.titles[half], 0);
      } else if (this.mode === "slider" && better) {
        this.#paintSlider(context, width, height);
        this.#label(context, "picture", 0);
        this.#label(context, name, width);
      } else if (compared) {
        this.#label(context, better ? name : "picture", 0);
      }
      context.restore();
    }
    if (halves > 1) line(context, width, height);
  }

  #paint(context, image, place = { left: 0, top: 0, width: this.picture.width, height: this.picture.height }) {
    const [left, top] = this.toScreen([place.left, place.top]);
    context.imageSmoothingEnabled = this.zoom * (place.width / image.width) < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, left, top, place.width * this.zoom, place.height * this.zoom);
  }

  #paintPatch(context) {
    this.#paint(context, this.patch.image, this.patch);
    const { left, top, width, height } = this.patch;
    context.strokeStyle = MARK;
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeRect(...this.toScreen([left, top]), width * this.zoom, height * this.zoom);
  }

  #paintSlider(context, width, height) {
    const at = this.split * width;
    context.save();
    clip(context, at, height);
    context.fillStyle = DARK;
    context.fillRect(0, 0, at, height);
    this.#paint(context, this.picture);
    context.restore();
    line(context, at, height);
    context.fillStyle = MARK;
    context.fillRect(at - 3, height / 2 - 20, 6, 40);
  }

  // At the upper edge; left of `at` if that is the right edge.
  #label(context, text, at) {
    if (!text) return;
    const size = 13 * devicePixelRatio;
    context.font = `${size}px system-ui, sans-serif`;
    const width = context.measureText(text).width + size;
    const left = at ? at - width : 0;
    context.fillStyle = "rgb(0 0 0 / 70%)";
    context.fillRect(left, 0, width, 1.7 * size);
    context.fillStyle = "#fff";
    context.fillText(text, left + size / 2, 1.2 * size);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((value) => value * devicePixelRatio);
  }

  #wheel(event) {
    event.preventDefault();
    const at = this.#at(event);
    const distance = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1);
    this.zoomTo(this.zoom * Math.exp(-distance / 400), [at[0] % this.views.width, at[1]]);
  }

  // Between the whole and single pixels.
  #twice(event) {
    if (this.mode === "explain") return;
    const at = this.#at(event);
    if (this.whole) this.zoomTo(this.scale, [at[0] % this.views.width, at[1]]);
    else this.fit();
  }

  #down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.#at(event);
    this.pointers.set(event.pointerId, at);
    this.moved = 0;
    this.sliding = this.mode === "slider" && (this.result || this.patch) && this.pointers.size === 1
      && Math.abs(at[0] - this.split * this.canvas.width) < 16 * devicePixelRatio;
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") this.#tell(this.hover, this.#at(event));
      return;
    }
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
    if (at && event.type === "pointerup" && this.moved < 5) this.#tell(this.pick, at);
  }

  #tell(whom, at) {
    if (this.mode !== "explain" || !this.picture || !whom) return;
    const [x, y] = this.toPicture(at).map(Math.floor);
    if (x >= 0 && y >= 0 && x < this.picture.width && y < this.picture.height) whom(x, y);
  }

  setSplit(part) {
    this.split = Math.min(Math.max(part, 0), 1);
    this.slid?.(this.split);
    this.draw();
  }
}

function clip(context, width, height) {
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
}

function line(context, at, height) {
  context.fillStyle = "#fff";
  context.fillRect(at - 1, 0, 2, height);
}
