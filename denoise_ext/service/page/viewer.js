// The stage: where the picture lies, the border of before and after, pointers and keys.

const LARGEST = 16; // screen pixels per pixel of the picture
const STEP = 1.5;

export class Viewer {
  /**
   * @param {HTMLElement} stage holds the canvas and the divider
   * @param {object} layers before, after, doubt
   * @param {object} on moved: the view has changed; zoomed: called with the zoom
   */
  constructor(stage, layers, on) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.divider = stage.querySelector("[role=slider]");
    this.context = this.canvas.getContext("2d");
    this.layers = layers;
    this.on = on;
    this.border = 0.5; // of the stage's width
    this.strength = 1;
    this.hold = false; // show what was before
    this.doubts = false; // show uncertainty
    this.fitted = true;
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(stage);
    this.listen();
  }

  /** Show a picture of this size. */
  open(width, height) {
    Object.assign(this, { width, height });
    this.layers.before.reset(width, height);
    this.layers.after.reset(width, height);
    this.layers.doubt.reset(width, height);
    this.setBorder(0.5);
    this.fit();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.stage.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.stage.clientHeight * ratio));
    if (!this.width) return;
    if (this.fitted) this.fit();
    else this.move();
  }

  /** The scale at which the whole picture is seen; small ones are not enlarged. */
  get fitting() {
    const { width, height } = this.canvas;
    return Math.min(1, width / this.width, height / this.height);
  }

  fit() {
    this.fitted = true;
    this.scale = this.fitting;
    [this.x, this.y] = [this.width / 2, this.height / 2];
    this.move();
  }

  /** Zoom to a scale in screen pixels per pixel, keeping a point of the canvas in place. */
  zoom(scale, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const before = this.toPicture(...at);
    this.scale = Math.min(LARGEST, Math.max(Math.min(this.fitting, 1), scale));
    this.fitted = this.scale === this.fitting;
    const after = this.toPicture(...at);
    this.x += before[0] - after[0];
    this.y += before[1] - after[1];
    this.move();
  }

  /** Take a new place: the picture covers the stage, or is in its middle. */
  move() {
    const keep = (value, size, room) => {
      const half = room / this.scale / 2;
      return half * 2 >= size ? size / 2 : Math.min(size - half, Math.max(half, value));
    };
    this.x = keep(this.x, this.width, this.canvas.width);
    this.y = keep(this.y, this.height, this.canvas.height);
    this.on.zoomed(this.scale);
    this.look();
  }

  /** Ask the layers for what is seen, and draw. */
  look() {
    if (!this.width || this.canvas.width < 2) return;
    const [left, top] = this.toPicture(0, 0).map((v) => Math.max(0, v));
    const ends = this.toPicture(this.canvas.width, this.canvas.height);
    const right = Math.min(this.width, ends[0]);
    const bottom = Math.min(this.height, ends[1]);
    let k = 1;
    while (k * 2 <= 1 / this.scale && k < 1024) k *= 2;
    const from = Math.min(right, Math.max(left, this.toPicture(this.border * this.canvas.width, 0)[0]));
    const focus = { x: from + (right - from) / 4, y: (top + bottom) / 2 };
    const seen = { k, left, top, right, bottom, focus };
    this.seen = { ...seen, from };
    this.layers.before.want({ ...seen, from: left });
    this.layers.after.want(this.seen);
    this.on.moved();
    this.redraw();
  }

  /** Ask for the uncertainty of what is seen. */
  lookAtDoubt() {
    this.layers.doubt.want(this.seen);
  }

  toPicture(x, y) {
    return [
      this.x + (x - this.canvas.width / 2) / this.scale,
      this.y + (y - this.canvas.height / 2) / this.scale,
    ];
  }

  toScreen(x, y) {
    return [
      Math.round((x - this.x) * this.scale + this.canvas.width / 2),
      Math.round((y - this.y) * this.scale + this.canvas.height / 2),
    ];
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    if (!this.width) return;
    const { context, canvas } = this;
    const toScreen = (x, y) => this.toScreen(x, y);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = this.scale < 2;
    context.imageSmoothingQuality = "high";
    this.layers.before.draw(context, toScreen);
    if (this.hold || this.strength === 0) return;
    const border = Math.round(this.border * canvas.width);
    context.save();
    context.beginPath();
    context.rect(border, 0, canvas.width - border, canvas.height);
    context.clip();
    // Cells lie over one another: together first, then blended once.
    this.sheet ??= document.createElement("canvas");
    this.sheet.width = canvas.width; // also clears it
    this.sheet.height = canvas.height;
    const own = this.sheet.getContext("2d");
    own.imageSmoothingEnabled = this.scale < 2;
    own.imageSmoothingQuality = "high";
    this.layers.after.draw(own, toScreen);
    context.globalAlpha = this.strength;
    context.drawImage(this.sheet, 0, 0);
    context.globalAlpha = 1;
    if (this.doubts) this.layers.doubt.draw(context, toScreen);
    context.restore();
  }

  /** Put the border of before and after at a share of the stage's width. */
  setBorder(share) {
    this.border = Math.min(1, Math.max(0, share));
    const percent = Math.round(100 * this.border);
    this.divider.style.left = `${100 * this.border}%`;
    this.divider.setAttribute("aria-valuenow", percent);
    this.divider.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
    this.stage.classList.toggle("all-after", percent < 12);
    this.stage.classList.toggle("all-before", percent > 88);
    this.look();
  }

  // --- pointers and keys --------------------------------------------------------------------------

  listen() {
    const { stage, divider } = this;
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    stage.addEventListener("dblclick", (event) => {
      if (this.scale === 1 && !this.fitted) this.fit();
      else this.zoom(1, this.place(event));
    });
    const wheel = (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      this.zoom(this.scale * Math.exp(-event.deltaY * lines * 0.002), this.place(event));
    };
    stage.addEventListener("wheel", wheel, { passive: false });
    stage.addEventListener("keydown", (event) => this.key(event));
    divider.addEventListener("keydown", (event) => this.dividerKey(event));
    addEventListener("keydown", (event) => this.holdKey(event, true));
    addEventListener("keyup", (event) => this.holdKey(event, false));
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  press(event) {
    if (event.button !== 0) return;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.place(event));
    const whole = this.width * this.scale <= this.canvas.width + 1 &&
      this.height * this.scale <= this.canvas.height + 1;
    this.sliding = this.pointers.size === 1 && (this.divider.contains(event.target) || whole);
    if (this.sliding) {
      this.divider.focus({ preventScroll: true });
      event.preventDefault(); // which would move the focus to the stage
      this.setBorder(this.place(event)[0] / this.canvas.width);
    }
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.place(event);
    this.pointers.set(event.pointerId, now);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId);
      const distance = ([x, y]) => Math.hypot(x - other[1][0], y - other[1][1]);
      this.sliding = false;
      this.zoom(this.scale * (distance(now) / Math.max(1, distance(before))), other[1]);
    } else if (this.sliding) {
      this.setBorder(now[0] / this.canvas.width);
    } else {
      this.x -= (now[0] - before[0]) / this.scale;
      this.y -= (now[1] - before[1]) / this.scale;
      this.move();
    }
  }

  key(event) {
    if (event.target === this.divider && event.key.startsWith("Arrow")) return;
    const far = this.canvas.width / this.scale / 10;
    const keys = {
      "+": () => this.zoom(this.scale * STEP),
      "=": () => this.zoom(this.scale * STEP),
      "-": () => this.zoom(this.scale / STEP),
      0: () => this.fit(),
      1: () => this.zoom(1),
      ArrowLeft: () => this.pan(-far, 0),
      ArrowRight: () => this.pan(far, 0),
      ArrowUp: () => this.pan(0, -far),
      ArrowDown: () => this.pan(0, far),
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.move();
  }

  dividerKey(event) {
    const steps = {
      ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01,
      PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.setBorder(this.border + steps[event.key]);
  }

  holdKey(event, down) {
    const typing = event.target.matches?.("select, input:not([type=range])");
    if (event.key.toLowerCase() !== "b" || typing || event.ctrlKey || event.metaKey) return;
    this.hold = down;
    this.stage.classList.toggle("holding", down);
    this.redraw();
  }
}
