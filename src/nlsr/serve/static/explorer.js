// Where a pixel comes from: asks the server for a pixel, and draws the answer over the picture.

import { askJson, form } from "./api.js";

const MARK = "#eb3c28", FRAME = "#22a7f0", CHOSEN = "#fcb826";
const PATCH = 7; // side of an outlined patch, in pixels of the picture
const AROUND = 7; // pixels of a thumbnail on each side of its middle
const SLOW = 300; // milliseconds after which an answer is said to take a while

export class Explorer {
  constructor(viewer, elements) {
    Object.assign(this, { viewer, ...elements }); // pixel (a form), told, sources, follow (a button)
    this.answers = []; // one for each model that is shown
    this.offered = ""; // the model that is offered where one has no attention
    this.known = new Map(); // what the server calls a picture: by job, or by file
    this.open(null);
    viewer.pick = (x, y) => {
      this.setFollowing(false);
      this.explain(x, y);
    };
    viewer.hover = (x, y) => {
      const same = this.at?.[0] === x && this.at?.[1] === y;
      if (this.following && !same && this.pixel.layer.value !== "attribution") this.explain(x, y);
    };
    viewer.overlay = (context, toScreen, half) => this.#draw(context, toScreen, this.answers[half]);
    this.follow.addEventListener("click", () => this.setFollowing(!this.following));
    this.pixel.addEventListener("submit", (event) => {
      event.preventDefault();
      this.setFollowing(false);
      this.explain(Number(this.pixel.x.value), Number(this.pixel.y.value));
    });
    for (const name of ["model", "affinity", "beside", "beside_affinity", "layer"]) {
      this.pixel[name].addEventListener("change", () => {
        if (name === "model") this.pixel.affinity.value = "0";
        if (name === "beside") this.pixel.beside_affinity.value = "0";
        if (this.at) this.explain(...this.at);
      });
    }
  }

  // `source` is { job } or { file }, or null.
  open(source) {
    this.asking?.abort();
    this.source = source;
    this.at = this.next = null;
    this.chosen = null; // a source that is pointed at: [half, index]
    this.#show([]);
    this.setFollowing(true);
    this.told.textContent = source ? "Point at a pixel of the picture, or click one to keep it." : "Choose a picture first.";
  }

  // Whether the pixel under the pointer is explained.
  setFollowing(following) {
    this.following = following;
    this.follow.setAttribute("aria-pressed", following);
  }

  // One question at a time; of those that come meanwhile the last one is asked.
  async explain(x, y) {
    if (!this.source) return;
    [this.pixel.x.value, this.pixel.y.value] = [x, y];
    this.at = this.next = [x, y];
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const at = this.next;
      this.next = null;
      await this.#answer(...at);
    }
    this.busy = false;
  }

  async #answer(x, y) {
    const asking = (this.asking = new AbortController());
    const slow = setTimeout(() => {
      this.told.textContent = "Working … A picture is matched once, further pixels are quick.";
    }, SLOW);
    try {
      const models = [["model", "affinity"], ["beside", "beside_affinity"]].filter(([name]) => this.pixel[name].value);
      const answers = [];
      for (const [model, affinity] of models) {
        answers.push(await this.#ask(this.pixel[model].value, x, y, this.pixel[affinity], asking.signal));
      }
      if (!asking.signal.aborted) this.#show(answers);
    } catch (error) {
      if (!asking.signal.aborted) {
        this.#show([]);
        this.told.textContent = error.message;
      }
    } finally {
      clearTimeout(slow);
    }
  }

  // `affinity` is the list of the network's affinities, which is filled here.
  async #ask(model, x, y, affinity, signal) {
    const key = this.source.job ?? this.source.file;
    const layer = this.pixel.layer.value;
    const values = { model, x, y, affinity: affinity.value, attribution_steps: layer === "attribution" ? 20 : "" };
    const place = () => this.known.has(key) ? { picture: this.known.get(key) } : this.source;
    const post = (where) => askJson("/api/explain", { method: "POST", body: form({ ...values, ...where }), signal });
    let answer;
    try {
      answer = await post(place());
    } catch (error) {
      if (error.status !== 404 || !this.known.delete(key)) throw error;
      answer = await post(place()); // the server forgot the picture: it is sent again
    }
    this.known.set(key, answer.picture);
    const count = answer.affinity?.count ?? 1;
    if (affinity.length !== count) {
      affinity.replaceChildren(...Array.from({ length: count }, (_, index) => new Option(index, index)));
      affinity.value = answer.affinity?.index ?? 0;
    }
    const map = layer === "attribution" ? answer.attribution.map : answer.affinity?.[layer];
    if (layer === "attribution") answer.region = answer.attribution.region;
    return { ...answer, layer, map: map ? coloured(await grey(map), layer) : null };
  }

  #show(answers) {
    this.answers = answers;
    this.viewer.titles = answers.length ? answers.map((answer) => answer.model) : [""];
    this.told.textContent = answers.map(words).join(" — ");
    const focused = [...this.sources.children].findIndex((part) => part.contains(document.activeElement));
    this.sources.replaceChildren(...answers.map((answer, half) => this.#list(answer, half)));
    if (focused >= 0) (this.sources.children[focused]?.querySelector("button") ?? this.pixel.x).focus();
    if (this.viewer.whole) this.viewer.fit(); // there may be another number of views
    this.viewer.draw();
  }

  // The strongest sources of one model, as buttons that lead on to them.
  #list(answer, half) {
    const section = document.createElement("section");
    const list = Object.assign(document.createElement("ol"), { className: "patches" });
    list.append(...strongest(answer).map((source, index) => {
      const button = document.createElement("button");
      const said = `${source.x},${source.y}: ${(100 * source.weight).toPrecision(2)} %`;
      button.append(this.#thumbnail(source), said);
      button.title = `What does pixel ${source.x},${source.y} draw on?`;
      for (const [event, chosen] of [["pointerenter", [half, index]], ["focus", [half, index]], ["pointerleave", null], ["blur", null]]) {
        button.addEventListener(event, () => { this.chosen = chosen; this.viewer.draw(); });
      }
      button.addEventListener("click", () => { this.setFollowing(false); this.explain(source.x, source.y); });
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
    list.setAttribute("aria-label", `The pixels that ${answer.at.join(",")} draws on most in ${answer.model}`);
    const title = document.createElement("h3");
    title.append(this.#thumbnail({ x: answer.at[0], y: answer.at[1] }), `${answer.model}: pixel ${answer.at.join(",")}`);
    section.append(title, isBare(answer) ? this.#ways(answer, half) : list);
    return section;
  }

  // What can be looked at instead, where a network has no attention.
  #ways(answer, half) {
    const row = Object.assign(document.createElement("p"), { className: "row" });
    const way = (text, name, value) => {
      const button = Object.assign(document.createElement("button"), { textContent: text });
      button.addEventListener("click", () => {
        this.pixel[name].value = value;
        this.explain(...this.at);
      });
      row.append(button);
    };
    way("Show local attribution", "layer", "attribution");
    if (this.offered !== answer.model) way(`Look into ${this.offered}`, ["model", "beside"][half], this.offered);
    return row;
  }

  // The surroundings of a pixel, magnified; the pixel itself is framed.
  #thumbnail({ x, y }) {
    const canvas = document.createElement("canvas");
    const side = 2 * AROUND + 1, enlarged = 8;
    canvas.width = canvas.height = side * enlarged;
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.viewer.picture, x - AROUND, y - AROUND, side, side, 0, 0, canvas.width, canvas.height);
    context.strokeStyle = MARK;
    context.lineWidth = 2;
    context.strokeRect(AROUND * enlarged, AROUND * enlarged, enlarged, enlarged);
    return canvas;
  }

  #draw(context, toScreen, answer) {
    if (!answer) return;
    const { left, top, width, height } = answer.region;
    const [x0, y0] = toScreen([left, top]);
    const [x1, y1] = toScreen([left + width, top + height]);
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
    context.imageSmoothingEnabled = false;
    if (answer.map) context.drawImage(answer.map, x0, y0, x1 - x0, y1 - y0);
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = FRAME;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    const centre = ([x, y]) => toScreen([x + 0.5, y + 0.5]);
    const [atX, atY] = centre(answer.at);
    const sources = strongest(answer);
    const largest = sources[0]?.weight ?? 1;
    sources.forEach((source, index) => {
      const [x, y] = centre([source.x, source.y]);
      const strength = Math.sqrt(source.weight / largest);
      const chosen = this.chosen && this.answers[this.chosen[0]] === answer && this.chosen[1] === index;
      context.globalAlpha = chosen ? 1 : 0.25 + 0.75 * strength;
      context.strokeStyle = chosen ? CHOSEN : "#fff";
      context.lineWidth = (chosen ? 4 : 0.5 + 1.5 * strength) * devicePixelRatio;
      context.beginPath();
      context.moveTo(atX, atY);
      context.lineTo(x, y);
      context.stroke();
      const [boxX, boxY] = toScreen([source.x - PATCH / 2 + 0.5, source.y - PATCH / 2 + 0.5]);
      const side = toScreen([source.x + PATCH / 2 + 0.5, 0])[0] - boxX;
      context.strokeRect(boxX, boxY, side, side);
    });
    context.globalAlpha = 1;
    context.strokeStyle = MARK;
    context.lineWidth = 2 * devicePixelRatio;
    const arm = 12 * devicePixelRatio;
    context.beginPath();
    context.moveTo(atX - arm, atY);
    context.lineTo(atX + arm, atY);
    context.moveTo(atX, atY - arm);
    context.lineTo(atX, atY + arm);
    context.stroke();
  }
}

const isBare = (answer) => !answer.affinity && answer.layer !== "attribution";

const strongest = (answer) => answer.layer === "attribution" ? [] : (answer.affinity?.strongest ?? []);

function words(answer) {
  const where = `${answer.model}, pixel ${answer.at.join(",")}`;
  if (answer.layer === "attribution") {
    const index = answer.attribution.diffusion_index;
    return `${where}: local attribution, diffusion index ${index === null ? "unknown in a flat picture" : index.toFixed(2)}`;
  }
  if (isBare(answer)) return `${where}: this network has no attention; local attribution shows what it draws on`;
  const { operator, group, groups_are: groups, reach, reach_is: name } = answer.affinity;
  const [first] = strongest(answer);
  return `${where}: ${operator} attention draws most on ${first ? `${first.x},${first.y}` : "nothing"}`
    + (group ? `; ${groups}: ${group.join(", ")}` : "")
    + (answer.layer === "reach" ? `; ${reach ? name : "it can draw on every pixel"}` : "")
    + (answer.layer === "same_group" && !group ? "; it has no groups" : "");
}

async function grey(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

// A grey map as colours, transparent where it is black.
function coloured(map, layer) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [map.width, map.height];
  const context = canvas.getContext("2d");
  context.drawImage(map, 0, 0);
  map.close();
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const hot = layer === "heat" || layer === "attribution";
  for (let at = 0; at < image.data.length; at += 4) {
    const value = image.data[at] / 255;
    const heat = [255 * Math.min(1, 0.5 + value), 255 * value, 255 * Math.max(0, 2 * value - 1)];
    image.data.set([...(hot ? heat : [252, 184, 38]), 255 * Math.min(1, (hot ? 2 : 0.5) * value)], at);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
