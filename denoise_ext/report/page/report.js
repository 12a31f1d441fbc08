"use strict";
const stage = document.getElementById("stage");
const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];

// --- views ---------------------------------------------------------------------------------------
function show(view) {
  stage.classList.toggle("comparing", view === "compare");
  one("#slide").hidden = view !== "compare";
  for (const image of stage.querySelectorAll("img")) {
    const name = image.className;
    image.hidden = !(name === view || name === "after" || (name === "before" && view === "compare"));
  }
}
for (const input of all("input[name=view]")) {
  input.addEventListener("change", () => {
    one("#view-text").textContent = input.dataset.text;
    show(input.value);
  });
}
const border = one("#border");
const slide = () => stage.style.setProperty("--border", `${border.value}%`);
border.addEventListener("input", slide);
stage.addEventListener("pointermove", (event) => {
  if (!event.buttons || !stage.classList.contains("comparing")) return;
  const box = stage.getBoundingClientRect();
  border.value = (100 * (event.clientX - box.left)) / box.width;
  slide();
});
stage.addEventListener("dragstart", (event) => event.preventDefault());
show("compare");

// --- points --------------------------------------------------------------------------------------
for (const point of all(".point")) {
  point.addEventListener("click", () => {
    all("figure.chosen").forEach((figure) => figure.classList.remove("chosen"));
    const figure = one(`#point-${point.dataset.point}`);
    figure.classList.add("chosen");
    figure.focus();
  });
}

// --- samples -------------------------------------------------------------------------------------
const sheets = all("#samples .sheet img");
const choices = all("#samples [data-sample]");
const flicker = one("#flicker");
let timer = null;
function choose(index) {
  sheets.forEach((image, i) => { image.hidden = i !== index; });
  choices.forEach((button, i) => button.setAttribute("aria-pressed", i === index));
}
function stop() {
  clearInterval(timer);
  timer = null;
  flicker.setAttribute("aria-pressed", "false");
}
choices.forEach((button, i) => button.addEventListener("click", () => {
  stop();
  choose(i);
}));
flicker?.addEventListener("click", () => {
  if (timer) {
    stop();
    return;
  }
  let index = 2; // the samples come after the noisy image and the result
  flicker.setAttribute("aria-pressed", "true");
  choose(index);
  timer = setInterval(() => {
    index = index + 1 < sheets.length ? index + 1 : 2;
    choose(index);
  }, 500);
});
