// The page: one picture at a time, from a file to the download.

import * as api from "./api.js";
import { coloured } from "./doubt.js";
import { Layer } from "./layer.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);

const KINDS = {
  none: "Little or no noise",
  white: "White noise",
  "signal-dependent": "Noise that grows with brightness",
  correlated: "Correlated noise, as cameras and JPEG leave it",
  impulse: "Impulses: single wrong pixels",
  mixed: "Impulses and other noise",
};
const DOUBT = "Colours over the result: where it may be wrong.";
const NETWORKS = { auto: "Automatic: by the noise" };

/** What is shown now; null on the first screen. */
let picture = null;
let limits = { models: [], max_upload: Infinity };
let opening = null; // AbortController
let saving = null;

// --- what is denoised how ---------------------------------------------------------------------------

const options = () => ({
  model: $("network").value || null,
  sigma: $("automatic").checked ? null : Number($("level").value),
});

const before = new Layer(originalPart, {
  quick: 1, steady: 1, rate: 16e6, changed: redraw, failed,
});
const after = new Layer(denoisedPart, {
  quick: 0.2, steady: 0.5, rate: 1.5e6, changed: redraw, failed,
});
const doubt = new Layer(uncertainPart, {
  quick: 0.3, steady: 0.6, rate: 0.3e6, changed: redraw, failed: withoutDoubt,
});
const viewer = new Viewer($("stage"), { before, after, doubt }, { moved: redraw, zoomed: showZoom });

async function originalPart(place) {
  const { image } = await api.part(picture.id, place, { original: true });
  return image;
}

async function denoisedPart(place) {
  const asked = picture;
  const { image, headers } = await api.part(asked.id, place, options());
  const sigma = headers.get("Denoise-Sigma");
  if (asked === picture && sigma) showLevel(Number(sigma));
  return image;
}

async function uncertainPart(place) {
  const { image, headers } = await api.part(picture.id, place, { ...options(), uncertainty: true });
  const most = Number(headers.get("Denoise-Sigma"));
  const interval = Number(headers.get("Denoise-Interval-90"));
  $("doubt-most").textContent = interval ? `± ${(interval * most).toFixed(0)}` : `σ ${most.toFixed(0)}`;
  $("doubt-help").textContent = interval
    ? "In the strongest colour, nine of ten pixels are off by less, on the scale from 0 to 255."
    : "Standard deviation of the error, on the scale from 0 to 255.";
  return coloured(image, Number(headers.get("Denoise-Uncertainty-Scale")), most);
}

function redraw() {
  if (!picture) return;
  if (after.complete && viewer.doubts) viewer.lookAtDoubt();
  const busy = !after.complete || (viewer.doubts && !doubt.complete);
  $("busy").hidden = !busy;
  $("viewer").setAttribute("aria-busy", busy);
  $("stage").dataset.answer = after.seconds === null ? "" : after.seconds.toFixed(3);
  const news = `${after.version} ${viewer.doubts}`;
  if (!busy && picture.announced !== news) {
    picture.announced = news;
    const doubts = viewer.doubts ? "Uncertainty is shown in colours." : $("used").textContent;
    say(`Denoised. ${doubts}`);
  }
  viewer.redraw();
}

/** Options have changed: what is seen is denoised anew. */
function refresh() {
  showUsed();
  after.outdate();
  showDoubt();
}

/** Colours of other options are not kept: they would be of another result. */
function showDoubt() {
  doubt.reset(picture.width, picture.height);
  viewer.doubts = $("doubt").checked;
  $("doubt-scale").hidden = !viewer.doubts;
  $("doubt-most").textContent = "";
  $("doubt-help").textContent = viewer.doubts ? "Looking." : DOUBT;
  viewer.look();
}

/** The service has a reason why there is no uncertainty: it stands beside the switch. */
function withoutDoubt(error) {
  if (error.status !== 422) {
    failed(error);
    return;
  }
  viewer.doubts = false;
  $("doubt-scale").hidden = true;
  const reason = error.message.replace(/^uncertainty: /, "");
  $("doubt-help").textContent = `None: ${reason}.`;
  say(`No uncertainty: ${reason}.`);
}

// --- opening ----------------------------------------------------------------------------------------

async function open(file) {
  if (!file) return;
  if (file.size > limits.max_upload) {
    complain(`${file.name} has ${bytes(file.size)}. This service takes ${bytes(limits.max_upload)}.`);
    return;
  }
  opening?.abort();
  opening = new AbortController();
  const { signal } = opening;
  $("main").classList.add("opening");
  silence();
  say(`Opening ${file.name}.`);
  try {
    const facts = await api.analyse(file, signal);
    if (picture) api.forget(picture.id);
    picture = { ...facts, file };
    show();
  } catch (error) {
    if (error.name !== "AbortError") failed(error, () => open(file), file.name);
  }
  if (!signal.aborted) $("main").classList.remove("opening");
}

function show() {
  const { file, width, height, dtype, format, frames } = picture;
  $("main").dataset.state = "picture";
  $("welcome").hidden = true;
  for (const id of ["viewer", "controls", "download", "file"]) $(id).hidden = false;
  $("file-name").textContent = file.name;
  const depth = { bool: "1 bit", uint8: "8 bit", uint16: "16 bit" }[dtype] ?? dtype;
  $("file-facts").textContent = `${width} × ${height}, ${depth} ${format}`;
  document.title = `${file.name} – denoise_ext`;
  showFound();
  showNotes(frames);
  showNetworks();
  $("automatic").checked = true;
  const found = picture.sigma ?? picture.estimated_sigma;
  $("level").max = Math.max(75, Math.ceil(found / 5) * 5);
  showLevel(found);
  $("strength").value = 100;
  setStrength();
  showUsed();
  viewer.open(width, height);
  showDoubt();
  $("stage").focus({ preventScroll: true });
}

function showFound() {
  const { noise, treatment } = picture;
  $("kind").textContent = noise ? KINDS[noise.kind] : "Too small for an analysis";
  const level = noise?.level ?? 0;
  $("mark").style.left = `${position(level)}%`;
  $("scale").hidden = !noise;
  $("scale").setAttribute("aria-label", `Level ${level.toFixed(1)} of 255`);
  const rows = [];
  if (noise) {
    rows.push(["Level", `σ ${level.toFixed(1)}`]);
    if (noise.kind === "signal-dependent") {
      rows.push(["Black to white", `σ ${noise.level_black.toFixed(1)} to ${noise.level_white.toFixed(1)}`]);
    }
    if (noise.kind === "correlated" || noise.scale_ratio > 1.2) {
      rows.push(["At half the size", `σ ${(noise.level * noise.scale_ratio).toFixed(1)}`]);
    }
    if (noise.kind === "impulse" || noise.kind === "mixed") {
      rows.push(["Wrong pixels", `${(100 * noise.impulses).toFixed(1)} %`]);
    }
    if (noise.gray_stored_as_rgb) rows.push(["Colours", "gray, stored as RGB"]);
  }
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => [tag("dt", name), tag("dd", value)]));
  $("facts").title = treatment;
}

function showNotes(frames) {
  const notes = [...picture.notes];
  if (frames > 1) notes.push(`The first of ${frames} pages is shown. The download has all of them.`);
  $("notes").replaceChildren(...notes.map((note) => tag("li", note)));
  $("notes-card").hidden = notes.length === 0;
}

function showNetworks() {
  const gray = picture.channels < 3;
  const fitting = limits.models.filter(({ channels }) => !channels || channels.includes(gray ? 1 : 3));
  const select = $("network");
  const entries = fitting.map(({ name }) => Object.assign(tag("option", NETWORKS[name] ?? name), { value: name }));
  const standard = limits.models.find((model) => model.default)?.name;
  select.replaceChildren(...entries);
  select.value = fitting.some(({ name }) => name === standard) ? standard : fitting[0]?.name;
}

/** Share of the width where a level stands on the scale: equal steps are equal ratios. */
const position = (level) => Math.min(100, (100 * Math.log2(1 + level)) / Math.log2(1 + 75));

// --- controls ---------------------------------------------------------------------------------------

function showLevel(level) {
  if ($("automatic").checked) $("level").value = level;
  const shown = Number($("level").value);
  $("level-value").textContent = $("automatic").checked && !usesLevel() ? "–" : shown.toFixed(1);
  $("level").setAttribute("aria-valuetext", `${shown.toFixed(1)} of 255`);
  fill($("level"));
}

const chosen = () => limits.models.find(({ name }) => name === $("network").value);

/** Whether the network is conditioned on a level. */
function usesLevel() {
  if (chosen()?.needs_sigma === false) return false;
  return $("network").value !== "auto" || !$("automatic").checked || picture.sigma !== null;
}

function showUsed() {
  const blind = chosen()?.needs_sigma === false;
  $("level").disabled = blind;
  $("automatic").disabled = blind;
  $("level-help").textContent = blind
    ? "This network finds the level itself."
    : "The noise to remove, as a standard deviation from 0 to 255.";
  const { model, sigma } = options();
  const family = `dxnet_s_${picture.channels < 3 ? "gray" : "color"}`;
  const network = model !== "auto" ? model : sigma === null ? picture.model : family;
  const text = model === "auto" && sigma === null ? `Uses ${network}, by what was found.` : `Uses ${network}.`;
  $("used").textContent = text;
  showLevel(picture.sigma ?? picture.estimated_sigma);
}

function setStrength() {
  const percent = Number($("strength").value);
  viewer.strength = percent / 100;
  $("strength-value").textContent = `${percent} %`;
  $("strength").setAttribute("aria-valuetext", `${percent} %`);
  fill($("strength"));
  viewer.redraw();
}

/** Let the style colour a slider's left part. */
function fill(slider) {
  const share = (slider.value - slider.min) / (slider.max - slider.min);
  slider.style.setProperty("--share", `${100 * share}%`);
}

function showZoom(scale) {
  const percent = 100 * scale;
  $("zoom-value").textContent = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
}

// --- download ---------------------------------------------------------------------------------------

async function download() {
  if (saving) {
    saving.abort();
    return;
  }
  saving = new AbortController();
  $("download-text").textContent = "Denoising – cancel";
  $("download").classList.add("working");
  const { file } = picture;
  try {
    const strength = viewer.strength === 1 ? null : viewer.strength;
    const how = { ...options(), strength };
    const { blob, suffix } = await api.denoise(file, how, saving.signal);
    const name = nameFor(file.name, suffix);
    const link = tag("a", "");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`Saved ${name}.`);
  } catch (error) {
    if (error.name === "AbortError") say("Cancelled.");
    else failed(error, download);
  }
  saving = null;
  $("download").classList.remove("working");
  $("download-text").textContent = "Download";
}

/** The name of the result: the file's own suffix where it means the same format. */
function nameFor(name, suffix) {
  const dot = name.toLowerCase().endsWith(".nii.gz") ? name.length - 7 : name.lastIndexOf(".");
  const stem = dot > 0 ? name.slice(0, dot) : name;
  const own = dot > 0 ? name.slice(dot) : "";
  const same = [[".jpg", ".jpeg"], [".tif", ".tiff"], [".pgm", ".ppm", ".pnm", ".pbm", ".pfm", ".pam"]];
  const equal = own.toLowerCase() === suffix ||
    same.some((group) => group.includes(own.toLowerCase()) && group.includes(suffix));
  return `${stem}_clean${equal ? own : suffix}`;
}

// --- messages ---------------------------------------------------------------------------------------

function failed(error, again = null, name = "") {
  if (error.status === 401) askForToken(again ?? refresh);
  else if (error.status === 404 && picture) open(picture.file); // not kept any more
  else complain(name ? `${name}: ${error.message}` : error.message);
}

function complain(text) {
  $("alert-text").textContent = text;
  $("alert").hidden = false;
  say("");
}

function silence() {
  $("alert").hidden = true;
}

function say(text) {
  $("status").textContent = text;
}

function askForToken(then) {
  const dialog = $("token-dialog");
  if (dialog.open) return;
  dialog.onclose = async () => {
    if (dialog.returnValue !== "use") return;
    api.keepToken($("token").value);
    $("token").value = "";
    await start();
    then();
  };
  dialog.showModal();
}

const bytes = (size) =>
  size >= 1 << 20 ? `${(size / (1 << 20)).toFixed(0)} MiB` : `${Math.ceil(size / 1024)} KiB`;

function tag(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

// --- events -----------------------------------------------------------------------------------------

for (const id of ["open", "choose"]) $(id).addEventListener("click", () => $("input").click());
$("input").addEventListener("change", () => {
  open($("input").files[0]);
  $("input").value = ""; // so that the same file can be chosen again
});
$("sample").addEventListener("click", async () => {
  $("main").classList.add("opening");
  try {
    await open(await api.sample());
  } catch (error) {
    $("main").classList.remove("opening");
    failed(error, () => $("sample").click());
  }
});
$("download").addEventListener("click", download);
$("alert-close").addEventListener("click", silence);

addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) open(file);
});
let drags = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (hasFiles(event)) $("veil").hidden = ++drags < 1;
});
addEventListener("dragleave", (event) => {
  if (hasFiles(event)) $("veil").hidden = --drags < 1;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  drags = 0;
  $("veil").hidden = true;
  const files = event.dataTransfer?.files ?? [];
  if (files.length > 1) complain("One picture at a time. Folders are for the command line.");
  else open(files[0]);
});

$("level").addEventListener("input", () => {
  $("automatic").checked = false;
  refresh();
});
$("automatic").addEventListener("change", refresh);
$("network").addEventListener("change", refresh);
$("doubt").addEventListener("change", showDoubt);
addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("select, input:not([type=range], [type=checkbox])");
  if (event.key.toLowerCase() !== "u" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (picture) $("doubt").click();
});
$("strength").addEventListener("input", setStrength);
$("zoom-in").addEventListener("click", () => viewer.zoom(viewer.scale * 1.5));
$("zoom-out").addEventListener("click", () => viewer.zoom(viewer.scale / 1.5));
$("zoom-fit").addEventListener("click", () => viewer.fit());
$("zoom-full").addEventListener("click", () => viewer.zoom(1));
addEventListener("pagehide", (event) => {
  if (picture && !event.persisted) api.forget(picture.id);
});

async function start() {
  try {
    limits = await api.models();
    const minutes = Math.round(limits.kept_seconds / 60);
    $("promise").textContent =
      `Pictures go to this service alone. It forgets them after ${minutes} minutes.`;
  } catch (error) {
    failed(error, start);
  }
}

start();
