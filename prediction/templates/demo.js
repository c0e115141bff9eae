"use strict";
// Pictures go to /predict one at a time; boxes, table and CSV are made here. Nothing is stored.
// TEXT, what the page says, is in words.js.

const COLOURS = ["#2e7d32", "#b85600", "#c62828"];
const ATTRIBUTES = ["mask", "gender", "age"];
const WIDEST = 1200; // pixels of a picture in the list
const SMOOTHING = 0.8; // weight of the past in the camera's average

const $ = (id) => document.getElementById(id);
let language = navigator.language.startsWith("ko") ? "ko" : "en";
let state = null;
const results = []; // {name, people or error, image}
const say = (key) => TEXT[language][key];
const percent = (share) => `${Math.round(share * 100)}%`;

// ------------------------------------------------------------------ words

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = chosen;
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-text]"))
    element.textContent = say(element.dataset.text);
  for (const id of ["en", "ko"]) $(id).setAttribute("aria-pressed", String(id === chosen));
  showNotice();
  showResults();
}

function showNotice() {
  let key = null;
  if (state === "lost") key = "lost";
  else if (state && !state.model) key = "nomodel";
  else if (state && state.drawn) key = "drawn";
  $("notice").hidden = key === null;
  $("notice").textContent = key === null ? "" : say(key);
}

async function checkStatus() {
  try {
    state = await (await fetch("status")).json();
  } catch {
    state = "lost";
  }
  showNotice();
  if (state === "lost" || !state.model) setTimeout(checkStatus, 2000);
}

// ------------------------------------------------------------------ predictions

async function predict(blob, live) {
  try {
    const response = await fetch(live ? "predict?live=1" : "predict", {
      method: "POST",
      headers: { "Content-Type": blob.type || "image/unknown" },
      body: blob,
    });
    return await response.json();
  } catch {
    state = "lost";
    showNotice();
    setTimeout(checkStatus, 2000);
    return { error: "lost" };
  }
}

async function add(files) {
  for (const file of files) {
    const result = { name: file.name, busy: true };
    results.push(result);
    showResults();
    const said = await predict(file, false);
    const image = said.error ? null : await createImageBitmap(file).catch(() => null);
    Object.assign(result, said, { busy: false, image });
    showResults();
  }
}

const best = (person, key) => person.best[ATTRIBUTES.indexOf(key)];
const words = (person, key) => TEXT[language].values[key][best(person, key)];
const share = (person, key) => person[key][best(person, key)];

// ------------------------------------------------------------------ pictures and table

function drawPeople(context, people, scale) {
  const { width: canvasWidth } = context.canvas;
  context.textBaseline = "top";
  for (const [number, person] of people.entries()) {
    if (!person.box) continue;
    const [left, top, width, height] = person.box.map((value) => value * scale);
    const size = Math.round(Math.min(Math.max(width / 10, canvasWidth / 55, 11), canvasWidth / 20));
    context.font = `600 ${size}px system-ui, "Noto Sans KR", sans-serif`;
    const name = people.length > 1 ? `${number + 1}  ` : "";
    const lines = [
      `${name}${words(person, "mask")} ${percent(share(person, "mask"))}`,
      `${words(person, "gender")}, ${words(person, "age")}`,
    ];
    const labelWidth = Math.max(...lines.map((line) => context.measureText(line).width)) + size;
    const labelHeight = size * 2.9;
    const x = Math.max(0, Math.min(left, canvasWidth - labelWidth));
    const y = Math.max(0, top - labelHeight);
    context.strokeStyle = context.fillStyle = COLOURS[best(person, "mask")];
    context.lineWidth = Math.max(2, size / 6);
    context.strokeRect(left, top, width, height);
    context.fillRect(x, y, labelWidth, labelHeight);
    context.fillStyle = "#fff";
    lines.forEach((line, row) =>
      context.fillText(line, x + size / 2, y + size * (0.35 + 1.25 * row)),
    );
  }
}

function picture(result) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(400, Math.min(WIDEST, result.image.width));
  canvas.height = Math.round((result.image.height * canvas.width) / result.image.width);
  const context = canvas.getContext("2d");
  context.drawImage(result.image, 0, 0, canvas.width, canvas.height);
  drawPeople(context, result.people, canvas.width / result.width);
  const caption = document.createElement("figcaption");
  caption.textContent = result.people[0].box ? result.name : `${result.name}. ${say("noface")}`;
  figure.append(canvas, caption);
  return figure;
}

function cell(row, text, name = "") {
  const element = row.insertCell();
  element.textContent = text;
  element.className = name;
}

function showResults() {
  $("results").hidden = results.length === 0;
  $("pictures").replaceChildren(
    ...results.filter((result) => result.image && result.people.length).map(picture),
  );
  const body = $("table").tBodies[0];
  body.replaceChildren();
  for (const result of results) {
    if (result.busy || result.error) {
      const row = body.insertRow();
      cell(row, result.name, "photo");
      cell(row, "");
      const problem = result.error === "no model" ? "waiting" : "failed";
      cell(row, say(result.busy ? "busy" : problem), "failed");
      row.lastChild.colSpan = 6;
      continue;
    }
    result.people.forEach((person, number) => {
      const row = body.insertRow();
      cell(row, result.name, "photo");
      cell(row, number + 1);
      for (const key of ATTRIBUTES) {
        cell(row, words(person, key), key === "mask" ? `state${best(person, key)}` : "");
        cell(row, percent(share(person, key)), "share");
      }
    });
  }
}

function save() {
  const quote = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const rows = [["photo", "person", ...ATTRIBUTES.flatMap((key) => [key, `${key}_probability`])]];
  for (const result of results.filter((item) => item.people)) {
    result.people.forEach((person, number) => {
      const said = ATTRIBUTES.flatMap((key) => [words(person, key), share(person, key)]);
      rows.push([result.name, number + 1, ...said]);
    });
  }
  const lines = rows.map((row) => `${row.map(quote).join(",")}\r\n`);
  const text = "\ufeff" + lines.join(""); // the mark tells Excel it is UTF-8
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "masks.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ------------------------------------------------------------------ camera

let stream = null;
let known = []; // people of the last frame, their probabilities averaged over the frames

function overlap(a, b) {
  const width = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(0, width) * Math.max(0, height);
  return shared / (a[2] * a[3] + b[2] * b[3] - shared);
}

function smooth(people) {
  for (const person of people) {
    const before = known.find((other) => overlap(other.box, person.box) > 0.3);
    for (const [place, key] of ATTRIBUTES.entries()) {
      if (before)
        person[key] = person[key].map(
          (value, n) => before[key][n] ** SMOOTHING * Math.max(value, 1e-6) ** (1 - SMOOTHING),
        );
      const total = person[key].reduce((sum, value) => sum + value, 0);
      person[key] = person[key].map((value) => value / total);
      person.best[place] = person[key].indexOf(Math.max(...person[key]));
    }
  }
  known = people;
  return people;
}

async function watch() {
  const video = $("video");
  const canvas = $("live");
  const frame = document.createElement("canvas"); // the newest frame, sent when the last is done
  while (stream) {
    frame.width = video.videoWidth;
    frame.height = video.videoHeight;
    frame.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.9));
    const said = await predict(blob, true);
    if (!stream) return;
    canvas.width = frame.width; // clears it, so only now
    canvas.height = frame.height;
    const context = canvas.getContext("2d");
    context.drawImage(frame, 0, 0);
    if (said.people) drawPeople(context, smooth(said.people), 1);
    canvas.dataset.people = said.people ? said.people.length : 0;
    if (said.error) await new Promise((done) => setTimeout(done, 1000));
  }
}

async function toggleCamera() {
  if (stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = null;
    known = [];
  } else {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
    } catch {
      $("camera-says").dataset.text = "camera-denied";
    }
  }
  $("live").hidden = !stream;
  $("camera-says").hidden = Boolean(stream);
  $("snap").disabled = !stream;
  $("start").dataset.text = stream ? "stop" : "start";
  if (!stream && $("camera-says").dataset.text !== "camera-denied")
    $("camera-says").dataset.text = "camera-off";
  speak(language);
  if (stream) {
    $("video").srcObject = stream;
    await $("video").play();
    watch();
  }
}

async function snap() {
  const frame = document.createElement("canvas");
  frame.width = $("video").videoWidth;
  frame.height = $("video").videoHeight;
  frame.getContext("2d").drawImage($("video"), 0, 0);
  const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.95));
  const time = new Date().toTimeString().slice(0, 8);
  add([new File([blob], `${say("camera")} ${time}`, { type: "image/jpeg" })]);
}

// ------------------------------------------------------------------ events

for (const id of ["en", "ko"]) $(id).addEventListener("click", () => speak(id));
$("drop").addEventListener("click", () => $("files").click());
$("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") $("files").click();
});
$("files").addEventListener("click", (event) => event.stopPropagation());
$("files").addEventListener("change", (event) => {
  add([...event.target.files]);
});
for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
for (const kind of ["dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
  });
document.addEventListener("drop", (event) => {
  add([...event.dataTransfer.files]);
});
$("start").addEventListener("click", toggleCamera);
$("snap").addEventListener("click", snap);
$("save").addEventListener("click", save);
$("clear").addEventListener("click", () => {
  results.length = 0;
  showResults();
});
speak(language);
checkStatus();
