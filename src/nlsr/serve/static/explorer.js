// Where a pixel comes from: asks the server for a pixel, and draws the answer over the picture.

import { ask, askJson, form } from "./api.js";

const MARK = "#eb3c28", FRAME = "#22a7f0", PATCH = 7; // side of an outlined patch, in pixels of the picture

export class Explorer {
  constructor(viewer, elements, fail) {
    Object.assign(this, { viewer, fail, elements });
    this.answers = []; // one for each model that is shown
    this.known = new Map(); // what the server calls a picture: by job, or by file
    viewer.pick = (x, y) => this.explain(x, y);
    viewer.overlay = (context, toScreen, half) => this.#draw(context, toScreen, this.answers[half]);
    elements.pixel.addEventListener("submit", (event) => {
      event.preventDefault();
      this.explain(Number(elements.pixel.x.value), Number(elements.pixel.y.value));
    });
    for (const name of ["model", "affinity", "beside", "layer"]) {
      elements.pixel[name].addEventListener("change", () => {
        if (name === "model") elements.pixel.affinity.value = "0";
        if (this.at) this.explain(...this.at);
      });
    }
  }

  // `source` is { job } or { file }.
  open(source) {
    this.source = source;
    this.at = null;
    this.answers = [];
    this.viewer.halves = 1;
    this.elements.told.textContent = "Click a pixel of the picture.";
    this.elements.sources.replaceChildren();
  }

  async explain(x, y) {
    if (!this.source) return;
    const { pixel, told } = this.elements;
    [pixel.x.value, pixel.y.value] = [x, y];
    this.at = [x, y];
    const asked = (this.asked = {}); // a later click makes this answer stale
    told.textContent = "Asking …";
    try {
      const models = [pixel.model.value, pixel.beside.value].filter(Boolean);
      const answers = [];
      for (const model of models) answers.push(await this.#ask(model, x, y, answers.length === 0));
      if (asked !== this.asked) return;
      this.answers = answers;
      this.viewer.halves = answers.length;
      this.#tell();
      this.viewer.draw();
    } catch (error) {
      if (asked === this.asked) {
        told.textContent = error.message;
        this.fail?.(error);
      }
    }
  }

  async #ask(model, x, y, first) {
    const key = this.source.job ?? this.source.file;
    const layer = this.elements.pixel.layer.value;
    const values = {
      model, x, y,
      affinity: first ? this.elements.pixel.affinity.value : 0,
      attribution_steps: layer === "attribution" ? 20 : "",
    };
    const place = () => this.known.has(key) ? { picture: this.known.get(key) } : this.source;
    const post = (where) => askJson("/api/explain", { method: "POST", body: form({ ...values, ...where }) });
    let answer;
    try {
      answer = await post(place());
    } catch (error) {
      if (error.status !== 404 || !this.known.delete(key)) throw error;
      answer = await post(place()); // the server forgot the picture: it is sent again
    }
    this.known.set(key, answer.picture);
    const map = layer === "attribution" ? answer.attribution.map : answer.affinity?.[layer];
    answer.region = layer === "attribution" ? answer.attribution.region : answer.region;
    answer.map = map ? coloured(await grey(map), layer) : null;
    answer.layer = layer;
    return answer;
  }

  #tell() {
    const { told, sources, pixel } = this.elements;
    const [answer] = this.answers;
    told.textContent = this.answers.map(words).join(" — ");
    const count = answer.affinity?.count ?? 1;
    if (pixel.affinity.length !== count) {
      pixel.affinity.replaceChildren(...Array.from({ length: count }, (_, index) => new Option(index, index)));
      pixel.affinity.value = answer.affinity?.index ?? 0;
    }
    sources.replaceChildren(...(answer.affinity?.strongest ?? []).map((source, index) => {
      const item = document.createElement("li");
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = PATCH * 2 + 1;
      canvas.setAttribute("aria-hidden", "true");
      canvas.getContext("2d").drawImage(this.viewer.picture, PATCH - source.x, PATCH - source.y);
      item.append(canvas, `${index + 1}. ${source.x},${source.y}: ${(100 * source.weight).toPrecision(2)} %`);
      return item;
    }));
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
    const sources = answer.layer === "attribution" ? [] : (answer.affinity?.strongest ?? []);
    const largest = sources[0]?.weight ?? 1;
    for (const source of sources) {
      const [x, y] = centre([source.x, source.y]);
      const strength = Math.sqrt(source.weight / largest);
      context.globalAlpha = 0.25 + 0.75 * strength;
      context.strokeStyle = "#fff";
      context.lineWidth = (0.5 + 1.5 * strength) * devicePixelRatio;
      context.beginPath();
      context.moveTo(atX, atY);
      context.lineTo(x, y);
      context.stroke();
      const [boxX, boxY] = toScreen([source.x - PATCH / 2 + 0.5, source.y - PATCH / 2 + 0.5]);
      const side = toScreen([source.x + PATCH / 2 + 0.5, 0])[0] - boxX;
      context.strokeRect(boxX, boxY, side, side);
    }
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

function words(answer) {
  const where = `${answer.model}, pixel ${answer.at.join(",")}`;
  if (answer.layer === "attribution") {
    const index = answer.attribution.diffusion_index;
    return `${where}: local attribution, diffusion index ${index === null ? "unknown in a flat picture" : index.toFixed(2)}`;
  }
  if (!answer.affinity) return `${where}: this network has no attention; local attribution shows what it uses`;
  const { operator, strongest, group, groups_are: groups, reach, reach_is: name } = answer.affinity;
  const first = strongest[0];
  return `${where}: ${operator} attention draws most on ${first ? `${first.x},${first.y}` : "nothing"}`
    + (group ? `; ${groups}: ${group.join(", ")}` : "")
    + (answer.layer === "reach" && !reach ? "; it can draw on every pixel" : answer.layer === "reach" ? `; ${name}` : "")
    + ` (${answer.milliseconds} ms)`;
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
  const image = context.getImageData(0, 0, map.width, map.height);
  for (let at = 0; at < image.data.length; at += 4) {
    const value = image.data[at] / 255;
    const heat = [255 * Math.min(1, 0.5 + value), 255 * value, 255 * Math.max(0, 2 * value - 1)];
    const colour = layer === "heat" || layer === "attribution" ? heat : [252, 184, 38];
    image.data.set([...colour, 255 * Math.min(1, (layer === "heat" || layer === "attribution" ? 2 : 0.5) * value)], at);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// A picture as the browser shows it: as it is, or as the server translates it.
export async function bitmap(path, translated) {
  try {
    return await createImageBitmap(await (await ask(path)).blob());
  } catch (error) {
    if (error.status) throw error;
    return createImageBitmap(await (await ask(translated)).blob());
  }
}
