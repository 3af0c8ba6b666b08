// The page: pictures that are chosen, the queue, and what is looked at. Ways to look are in viewer.js and explorer.js.

import { ask, askJson, download, form, send, watch } from "./api.js";
import { bitmap, Explorer } from "./explorer.js";
import { Viewer } from "./viewer.js";

const find = (id) => document.getElementById(id);
const options = find("options");
const viewer = new Viewer(find("canvas"));
const explorer = new Explorer(viewer, { pixel: find("pixel"), told: find("told"), sources: find("sources") });
const staged = []; // { file, image }: chosen, not yet sent
const jobs = new Map(); // id -> job, as the server tells it
let shown = null; // { job } or { file }: what is looked at
let blinking = 0;
const PREVIEW = 128; // side of what is previewed, in pixels of the picture

const fail = (error) => { find("message").textContent = error?.message ?? ""; };
const trying = (work) => async (...args) => {
  fail(null);
  try {
    await work(...args);
  } catch (error) {
    fail(error);
  }
};

// ---- what is asked for

function asked() {
  const values = Object.fromEntries(["model", "format", "quality", "background"].map((name) => [name, options[name].value]));
  for (const name of ["ensemble", "strip", "tone_map"]) values[name] = options[name].checked;
  if (options.size.value) values[options.size.value] = options.amount.value.trim();
  return values;
}

// For JSON: numbers are numbers, and what is empty is left out.
function askedJson() {
  const values = {};
  for (const [name, value] of Object.entries(asked())) {
    if (value !== "" && value !== false) values[name] = ["scale", "width", "height", "quality"].includes(name) ? Number(value) : value;
  }
  return values;
}

async function fillOptions() {
  const known = await askJson("/api/models");
  const names = [...known.families.map((family) => family.name), ...known.models.map((model) => model.name)];
  for (const select of [options.model, find("pixel").model, find("pixel").beside]) {
    select.append(...names.map((name) => new Option(name, name)));
  }
  options.model.value = find("pixel").model.value = known.default;
  options.format.append(...known.formats.map((name) => new Option(name, name)));
}

// ---- pictures that are chosen

const choose = trying(async (files) => {
  for (const file of files) staged.push({ file, image: await createImageBitmap(file).catch(() => null) });
  showStaged();
  if (staged.length) await look({ file: staged.at(-1).file });
});

function showStaged() {
  find("staged").replaceChildren(...staged.map((picture, index) => {
    const item = document.createElement("li");
    const name = Object.assign(document.createElement("button"), { className: "show", textContent: picture.file.name });
    name.addEventListener("click", trying(() => look({ file: picture.file })));
    const remove = Object.assign(document.createElement("button"), { textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove ${picture.file.name}`);
    remove.addEventListener("click", () => { staged.splice(index, 1); showStaged(); });
    item.append(name, remove);
    return item;
  }));
  find("enlarge").disabled = staged.length === 0;
  estimate();
}

const duration = (seconds) => seconds < 60 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;

async function estimate() {
  const line = find("estimate");
  const mine = (estimate.last = {});
  const known = staged.filter((picture) => picture.image);
  if (!known.length) { line.textContent = staged.length ? "The server will say how large it becomes." : ""; return; }
  line.textContent = "Estimating …";
  try {
    const all = [];
    for (const { image } of known) {
      all.push(await send("/api/estimate", { ...askedJson(), picture_width: image.width, picture_height: image.height }));
    }
    if (mine !== estimate.last) return;
    const seconds = all.map((each) => each.seconds);
    const time = seconds.includes(null) ? "" : `, about ${duration(seconds.reduce((sum, each) => sum + each, 0))}`;
    const memory = Math.max(...all.map((each) => each.memory)) / 2 ** 20;
    const last = all.at(-1);
    line.textContent = `${last.width}×${last.height} to ${last.new_width}×${last.new_height}`
      + `${all.length > 1 ? ` and ${all.length - 1} more` : ""}${time}, ${Math.ceil(memory)} MiB of memory.`;
  } catch (error) {
    if (mine === estimate.last) line.textContent = error.message;
  }
}

const enlarge = trying(async () => {
  find("enlarge").disabled = true;
  try {
    while (staged.length) {
      const { file } = staged[0];
      const job = await askJson("/api/jobs", { method: "POST", body: form({ ...asked(), file }) });
      staged.shift();
      jobs.set(job.id, { ...job, ...jobs.get(job.id) });
      showJobs();
      if (shown?.file === file) await look({ job: job.id });
    }
  } finally {
    showStaged();
  }
});

// ---- the queue

function told(job) {
  const before = jobs.get(job.id);
  if (job.state === "cancelled") jobs.delete(job.id);
  else jobs.set(job.id, job);
  showJobs();
  if (shown?.job === job.id && job.state === "done" && before?.state !== "done") trying(look)({ job: job.id });
}

function words(job) {
  const left = job.seconds_left === null ? "" : `, ${duration(job.seconds_left)} left`;
  if (job.state === "running") return `${Math.round(100 * job.progress)} %${left}`;
  if (job.state === "waiting") return "waiting";
  if (job.state === "failed") return job.problem.detail;
  return `${job.result.width}×${job.result.height} in ${duration(job.result.seconds)}${job.result.notes.map((note) => `; ${note}`).join("")}`;
}

function showJobs() {
  const list = find("queue");
  for (const item of [...list.children]) if (!jobs.has(item.dataset.id)) item.remove();
  for (const job of [...jobs.values()].sort((one, other) => one.created - other.created)) {
    const item = list.querySelector(`[data-id="${CSS.escape(job.id)}"]`) ?? addItem(list, job);
    item.className = `${job.state}${shown?.job === job.id ? " chosen" : ""}`;
    const said = words(job);
    if (item.querySelector(".state").textContent !== said) item.querySelector(".state").textContent = said;
    const progress = item.querySelector("progress");
    progress.hidden = !["waiting", "running"].includes(job.state);
    progress.value = job.progress;
    item.querySelector(".download").hidden = job.state !== "done";
    item.querySelector(".remove").textContent = progress.hidden ? "Remove" : "Cancel";
  }
  const all = [...jobs.values()];
  find("empty").hidden = all.length > 0;
  find("download-all").disabled = !all.some((job) => job.state === "done");
  find("clear").disabled = !all.some((job) => ["done", "failed"].includes(job.state));
}

function addItem(list, job) {
  const item = find("job").content.firstElementChild.cloneNode(true);
  item.dataset.id = job.id;
  const [show, save, remove] = [".show", ".download", ".remove"].map((name) => item.querySelector(name));
  show.textContent = job.name;
  item.querySelector("progress").setAttribute("aria-label", `Progress of ${job.name}`);
  show.addEventListener("click", trying(() => look({ job: job.id })));
  save.addEventListener("click", trying(() => download(`/api/jobs/${job.id}/result`)));
  remove.addEventListener("click", trying(() => forget([job.id])));
  list.append(item);
  return item;
}

async function forget(ids) {
  for (const id of ids) {
    await ask(`/api/jobs/${id}`, { method: "DELETE" }).catch((error) => { if (error.status !== 404) throw error; });
    jobs.delete(id);
  }
  showJobs();
}

// ---- what is looked at

async function look(source) {
  shown = source;
  showJobs();
  const mine = shown;
  let picture, result = null, caption;
  if (source.file) {
    picture = staged.find((each) => each.file === source.file)?.image;
    caption = picture ? `${source.file.name}, ${picture.width}×${picture.height}, not yet enlarged`
      : `${source.file.name}: your browser cannot show this format; the server may read it`;
  } else {
    const job = jobs.get(source.job);
    const path = `/api/jobs/${job.id}`;
    picture = await bitmap(`${path}/picture`, `${path}/preview.png?of=picture`);
    if (job.state === "done") result = await bitmap(`${path}/result`, `${path}/preview.png`);
    caption = `${job.name}, ${picture.width}×${picture.height}${result ? ` beside ${result.width}×${result.height}` : ""}`;
  }
  if (mine !== shown) return;
  find("caption").textContent = caption;
  find("canvas").setAttribute("aria-label", caption);
  find("preview").hidden = !picture || Boolean(result);
  explorer.open(source);
  if (picture) viewer.show(picture, result);
}

const preview = trying(async () => {
  const { picture } = viewer;
  const side = [Math.min(PREVIEW, picture.width), Math.min(PREVIEW, picture.height)];
  const [left, top] = viewer.centre.map((centre, axis) =>
    Math.round(Math.min(Math.max(centre - side[axis] / 2, 0), [picture.width, picture.height][axis] - side[axis])));
  const canvas = new OffscreenCanvas(...side);
  canvas.getContext("2d").drawImage(picture, -left, -top);
  find("caption").textContent = "Previewing …";
  const values = { model: options.model.value, file: await canvas.convertToBlob() };
  const response = await ask("/api/upscale", { method: "POST", body: form(values) });
  const image = await createImageBitmap(await response.blob());
  if (viewer.picture !== picture) return;
  viewer.patch = { image, left, top, width: side[0], height: side[1] };
  find("caption").textContent = `The framed ${side.join("×")} pixels as they will be`;
  viewer.draw();
});

function setMode(mode) {
  viewer.mode = mode;
  viewer.other = false;
  clearInterval(blinking);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches; // then space blinks
  if (mode === "blink" && !still) blinking = setInterval(() => { viewer.other = !viewer.other; viewer.draw(); }, 700);
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", button.dataset.mode === mode);
  find("split-label").hidden = mode !== "slider";
  find("explain").hidden = mode !== "explain";
  find("canvas").classList.toggle("picking", mode === "explain");
  if (viewer.whole) viewer.fit();
  viewer.draw();
}

const KEYS = {
  ArrowLeft: () => viewer.pan(-60, 0), ArrowRight: () => viewer.pan(60, 0),
  ArrowUp: () => viewer.pan(0, -60), ArrowDown: () => viewer.pan(0, 60),
  "+": () => viewer.zoomTo(viewer.zoom * 1.4), "=": () => viewer.zoomTo(viewer.zoom * 1.4),
  "-": () => viewer.zoomTo(viewer.zoom / 1.4), 0: () => viewer.fit(), 1: () => viewer.actual(),
  "[": () => viewer.setSplit(viewer.split - 0.05), "]": () => viewer.setSplit(viewer.split + 0.05),
  s: () => setMode("slider"), d: () => setMode("side"), b: () => setMode("blink"), w: () => setMode("explain"),
  " ": () => { viewer.other = !viewer.other; viewer.draw(); },
};

// ---- everything in its place

find("files").addEventListener("change", (event) => { choose([...event.target.files]); event.target.value = ""; });
addEventListener("paste", (event) => choose([...event.clipboardData.files]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  choose([...event.dataTransfer.files]);
});
options.addEventListener("submit", (event) => { event.preventDefault(); enlarge(); });
options.addEventListener("change", () => {
  find("amount-label").hidden = !options.size.value;
  if (!find("amount-label").hidden && !options.amount.value) options.amount.value = { scale: "2", fit: "3840x2160" }[options.size.value] ?? "1920";
  estimate();
});
find("download-all").addEventListener("click", trying(() => {
  const done = [...jobs.values()].filter((job) => job.state === "done");
  return download(`/api/results.zip?${new URLSearchParams(done.map((job) => ["id", job.id]))}`);
}));
find("clear").addEventListener("click", trying(() =>
  forget([...jobs.values()].filter((job) => ["done", "failed"].includes(job.state)).map((job) => job.id))));
for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
find("fit").addEventListener("click", () => viewer.fit());
find("actual").addEventListener("click", () => viewer.actual());
find("in").addEventListener("click", KEYS["+"]);
find("out").addEventListener("click", KEYS["-"]);
find("preview").addEventListener("click", preview);
find("full").addEventListener("click", () => document.fullscreenElement ? document.exitFullscreen() : find("viewer").requestFullscreen());
find("split").addEventListener("input", (event) => viewer.setSplit(event.target.value / 100));
viewer.slid = (part) => { find("split").value = 100 * part; };
find("canvas").addEventListener("keydown", (event) => {
  const work = KEYS[event.key];
  if (!work || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  work();
});

trying(fillOptions)();
watch(told, async () => {
  const now = await askJson("/api/jobs");
  jobs.clear();
  for (const job of now) jobs.set(job.id, job);
  showJobs();
});
