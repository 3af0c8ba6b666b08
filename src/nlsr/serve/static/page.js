// The page: pictures that are chosen, the queue, and what is looked at. Ways to look are in viewer.js and explorer.js.

import { ask, askJson, download, form, send, watch } from "./api.js";
import { Explorer } from "./explorer.js";
import { Viewer } from "./viewer.js";

const find = (id) => document.getElementById(id);
const options = find("options");
const viewer = new Viewer(find("canvas"));
const explorer = new Explorer(viewer, {
  pixel: find("pixel"), told: find("told"), sources: find("sources"), follow: find("follow"),
});
const staged = []; // { file, width, height, problem }: chosen, not yet sent; no size if the browser cannot decode it
const jobs = new Map(); // id -> job, as the server tells it, and when it told
const PREVIEW = 192; // longest side of what is previewed, in pixels of the picture
let shown = null; // { job } or { file }: what is looked at
let previewing = null; // what stops the preview that is computed
let blinking = 0;
let counting = null; // counts down what is left of a job

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
  const models = [...known.families, ...known.models];
  const { model, beside } = find("pixel");
  options.model.append(...models.map(({ name }) => new Option(name, name)));
  for (const select of [model, beside]) {
    select.append(...models.map(({ name, attention }) => new Option(attention?.length === 0 ? `${name} (no attention)` : name, name)));
  }
  options.model.value = known.default;
  model.value = explorer.offered = known.explained;
  options.format.append(...known.formats.map((name) => new Option(name, name)));
}

// ---- pictures that are chosen

const choose = trying(async (files) => {
  if (!files.length) return;
  for (const file of files) {
    const image = await createImageBitmap(file).catch(() => null);
    staged.push({ file, width: image?.width, height: image?.height });
    image?.close();
  }
  showStaged();
  await look({ file: files.at(-1) });
});

function showStaged() {
  find("staged").replaceChildren(...staged.map((picture) => {
    const item = document.createElement("li");
    const name = Object.assign(document.createElement("button"), { className: "show", textContent: picture.file.name });
    name.addEventListener("click", trying(() => look({ file: picture.file })));
    const remove = Object.assign(document.createElement("button"), { textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove ${picture.file.name}`);
    remove.addEventListener("click", trying(() => unstage(picture)));
    item.append(name, remove);
    if (picture.problem) {
      item.className = "failed";
      item.append(Object.assign(document.createElement("p"), { className: "state", textContent: picture.problem }));
    }
    return item;
  }));
  find("enlarge").disabled = staged.length === 0;
  estimate();
}

async function unstage(picture) {
  staged.splice(staged.indexOf(picture), 1);
  showStaged();
  find("files").focus(); // what had it is gone
  if (shown?.file === picture.file) await look(null);
}

const duration = (seconds) => seconds < 60 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;

async function estimate() {
  const line = find("estimate");
  const mine = (estimate.last = {});
  const known = staged.filter((picture) => picture.width);
  if (!known.length) { line.textContent = staged.length ? "The server will say how large it becomes." : ""; return; }
  line.textContent = "Estimating …";
  try {
    const bySize = new Map(); // many pictures of a camera have one size
    const all = [];
    for (const { width, height } of known) {
      const size = `${width}×${height}`;
      if (!bySize.has(size)) {
        bySize.set(size, await send("/api/estimate", { ...askedJson(), picture_width: width, picture_height: height }));
        if (mine !== estimate.last) return;
      }
      all.push(bySize.get(size));
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

// What is refused stays, with the reason; the others are sent.
const enlarge = trying(async () => {
  find("enlarge").disabled = true;
  try {
    for (const picture of [...staged]) {
      const { file } = picture;
      try {
        const job = await askJson("/api/jobs", { method: "POST", body: form({ ...asked(), file }) });
        staged.splice(staged.indexOf(picture), 1);
        if (!jobs.has(job.id)) keep(job); // its events may have come first
        showJobs();
        if (shown?.file === file) await look({ job: job.id });
      } catch (error) {
        if (![400, 413, 422].includes(error.status)) throw error;
        picture.problem = error.message;
        find("said").textContent = error.message;
      }
    }
  } finally {
    showStaged();
  }
});

// ---- the queue

function keep(job) {
  jobs.set(job.id, { ...job, at: performance.now() });
}

function told(job) {
  const before = jobs.get(job.id);
  if (["cancelled", "deleted"].includes(job.state)) {
    jobs.delete(job.id);
    showJobs();
    if (shown?.job === job.id) trying(look)(null); // by another page, or because of its age
    return;
  }
  keep(job);
  showJobs();
  if (before?.state !== job.state && ["done", "failed"].includes(job.state)) {
    find("said").textContent = `${job.name}: ${job.state}`;
  }
  if (shown?.job === job.id && job.state === "done" && before?.state !== "done") trying(look)({ job: job.id });
}

function words(job) {
  if (job.state === "running") {
    if (job.progress === 1) return "saving";
    const passed = (performance.now() - job.at) / 1000;
    const left = job.seconds_left === null ? "" : `, ${duration(Math.max(1, job.seconds_left - passed))} left`;
    return `${Math.floor(100 * job.progress)} %${left}`;
  }
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
    if (job.state === "running" && job.progress === 0) progress.removeAttribute("value"); // it moves, nobody knows how far
    else progress.value = job.progress;
    item.querySelector(".download").hidden = job.state !== "done";
    const remove = item.querySelector(".remove");
    remove.textContent = progress.hidden ? "Remove" : "Cancel";
    remove.setAttribute("aria-label", `${remove.textContent} ${job.name}`);
  }
  const all = [...jobs.values()];
  find("empty").hidden = all.length > 0;
  counting ??= all.some((job) => job.state === "running") ? setTimeout(() => { counting = null; showJobs(); }, 1000) : null;
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
  save.setAttribute("aria-label", `Download ${job.name}`);
  remove.addEventListener("click", trying(async () => {
    await forget([job.id]);
    find("files").focus(); // what had it is gone
  }));
  list.append(item);
  return item;
}

async function forget(ids) {
  for (const id of ids) {
    await ask(`/api/jobs/${id}`, { method: "DELETE" }).catch((error) => { if (error.status !== 404) throw error; });
    jobs.delete(id);
  }
  showJobs();
  if (shown?.job && !jobs.has(shown.job)) await look(null);
}

// ---- what is looked at

// Shows { job } or { file }; null clears the view.
async function look(source) {
  shown = source;
  previewing?.abort();
  showJobs();
  let picture = null, result = null, caption = "Choose a picture, or one of the queue.";
  if (source?.file) {
    picture = await createImageBitmap(source.file).catch(() => null);
    caption = picture ? `${source.file.name}, ${size(picture)}, not yet enlarged`
      : `${source.file.name}: your browser cannot show this format; the server may read it`;
  } else if (source) {
    const job = jobs.get(source.job);
    const path = `/api/jobs/${job.id}`;
    picture = await bitmap(`${path}/picture`, `${path}/preview.png?of=picture`);
    if (job.state === "done") result = await bitmap(`${path}/result`, `${path}/preview.png`).catch(fail);
    caption = `${job.name}, ${size(picture)}${result ? ` beside ${size(result)}` : ""}`;
  }
  if (source !== shown) return;
  find("caption").textContent = caption;
  find("canvas").setAttribute("aria-label", caption);
  find("preview").hidden = !picture || Boolean(result);
  viewer.show(picture, result);
  if (!source?.job || explorer.source?.job !== source.job) explorer.open(picture && source);
}

const size = (image) => `${image.width}×${image.height}`;

// A picture as the browser shows it, or if it cannot, as the server translates it.
async function bitmap(path, translated) {
  try {
    return await createImageBitmap(await (await ask(path)).blob());
  } catch (error) {
    if (error.status) throw error;
    return createImageBitmap(await (await ask(translated)).blob());
  }
}

// Enlarges what is in view; a second call stops the first.
const preview = trying(async () => {
  if (previewing) { previewing.abort(); return; }
  const { picture } = viewer;
  const part = viewer.visible(PREVIEW);
  const canvas = new OffscreenCanvas(part.width, part.height);
  canvas.getContext("2d").drawImage(picture, -part.left, -part.top);
  previewing = new AbortController();
  const { signal } = previewing;
  find("preview").textContent = "Stop the preview";
  const before = find("caption").textContent;
  find("caption").textContent = "Computing the preview …";
  try {
    const { model, ensemble } = asked();
    const file = await canvas.convertToBlob();
    const body = form({ model, ensemble, scale: await previewScale(picture), file });
    const image = await createImageBitmap(await (await ask("/api/upscale", { method: "POST", body, signal })).blob());
    if (viewer.picture !== picture) return;
    viewer.preview({ image, ...part });
    find("caption").textContent = `The framed ${size(part)} pixels as they will be`;
  } catch (error) {
    if (viewer.picture === picture) find("caption").textContent = before;
    if (!signal.aborted) throw error;
  } finally {
    previewing = null;
    find("preview").textContent = "Preview this part";
  }
});

// How many times larger the whole will be; "" for what the model makes.
async function previewScale(picture) {
  if (!options.size.value) return "";
  const sizes = { picture_width: picture.width, picture_height: picture.height };
  return (await send("/api/estimate", { ...askedJson(), ...sizes })).new_width / picture.width;
}

function setMode(mode) {
  viewer.mode = mode; // slider, side, blink or explain
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

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else find("viewer").requestFullscreen();
}

// To the next pixel, in the explorer.
function step(dx, dy) {
  if (viewer.mode !== "explain" || !viewer.picture) return;
  const { width, height } = viewer.picture;
  const [x, y] = explorer.at ?? [width >> 1, height >> 1];
  explorer.setFollowing(false);
  explorer.explain(Math.min(Math.max(x + dx, 0), width - 1), Math.min(Math.max(y + dy, 0), height - 1));
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  "+": () => viewer.zoomTo(viewer.zoom * 1.4), "=": () => viewer.zoomTo(viewer.zoom * 1.4),
  "-": () => viewer.zoomTo(viewer.zoom / 1.4), 0: () => viewer.fit(), 1: () => viewer.actual(),
  "[": () => viewer.setSplit(viewer.split - 0.05), "]": () => viewer.setSplit(viewer.split + 0.05),
  s: () => setMode("slider"), d: () => setMode("side"), b: () => setMode("blink"), w: () => setMode("explain"),
  " ": () => { viewer.other = !viewer.other; viewer.draw(); }, f: toggleFull,
};

function pressed(event) {
  const arrow = ARROWS[event.key];
  const work = arrow ? () => event.shiftKey ? step(...arrow) : viewer.pan(60 * arrow[0], 60 * arrow[1]) : KEYS[event.key];
  if (!work || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  work();
}

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
find("full").addEventListener("click", toggleFull);
find("full").hidden = !document.fullscreenEnabled;
document.addEventListener("fullscreenchange", () => {
  find("full").textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
});
find("split").addEventListener("input", (event) => viewer.setSplit(event.target.value / 100));
viewer.slid = (part) => { find("split").value = 100 * part; };
viewer.zoomed = () => {
  find("zoom").value = viewer.picture ? `${Math.round(100 * viewer.zoom / viewer.scale)} %` : "";
};
find("canvas").addEventListener("keydown", pressed);

trying(fillOptions)();
watch(told, async () => {
  const now = await askJson("/api/jobs");
  find("away").textContent = "";
  jobs.clear();
  now.forEach(keep);
  showJobs();
}, (error) => {
  find("away").textContent = `${error.message} The page goes on when it does.`;
});
