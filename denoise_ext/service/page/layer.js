// The cells of a picture, before or after: fetched where they are seen, kept while they are of use.
//
// A level of detail k has means of k x k pixels. Cells are squares of the picture; one request
// brings a rectangle of them.

const MOST_PIXELS = 64e6; // of all cells of a layer, as they are kept
const AROUND = 72; // pixels around a rectangle that the network reads, too

/** Side of a cell in pixels of the picture. Fine ones make the first answer quick. */
const sideOf = (k) => (k === 1 ? 256 : 512);

export class Layer {
  /**
   * @param {(place: object) => Promise<ImageBitmap>} fetch brings a rectangle
   * @param {object} options quick, steady: seconds that the first and later requests should take;
   *     rate: pixels per second to begin with; changed: called when there is more to draw;
   *     failed: called with an error
   */
  constructor(fetch, { quick, steady, rate, changed, failed }) {
    Object.assign(this, { fetch, quick, steady, rate, changed, failed });
    this.cells = new Map(); // "k/column/row" -> {k, column, row, image, version}
    this.version = 0;
    this.epoch = 0; // counts pictures: what was asked for the one before is dropped
    this.first = true;
    this.busy = false;
    this.wanted = null;
    this.seconds = null; // of the last request
  }

  /** The picture's size; all cells are dropped. */
  reset(width, height) {
    this.width = width;
    this.height = height;
    for (const cell of this.cells.values()) cell.image.close();
    this.cells.clear();
    this.wanted = null;
    this.epoch++;
    this.outdate();
  }

  /** Options have changed: cells are drawn until newer ones come. */
  outdate() {
    this.version++;
    this.first = true;
  }

  /** State what is seen: level of detail, rectangle, focus, and the column where it begins. */
  want(view) {
    this.wanted = view;
    this.run();
  }

  /** Whether all that is seen is there, for the newest options. */
  get complete() {
    return !this.wanted || this.missing(this.wanted).length === 0;
  }

  missing({ k, left, top, right, bottom, from, focus }) {
    const side = sideOf(k);
    const found = [];
    for (let row = Math.floor(top / side); row * side < bottom; row++) {
      for (let column = Math.floor(left / side); column * side < right; column++) {
        const cell = this.cells.get(`${k}/${column}/${row}`);
        if (cell?.version === this.version) continue;
        const x = (column + 0.5) * side - focus.x;
        const y = (row + 0.5) * side - focus.y;
        const hidden = (column + 1) * side <= from;
        found.push({ column, row, hidden, far: x * x + y * y });
      }
    }
    return found.sort((a, b) => a.hidden - b.hidden || a.far - b.far);
  }

  /** A rectangle of missing cells around the one that is wanted most. */
  rectangle(missing, k, pixels) {
    const side = sideOf(k);
    const open = new Set(
      missing.filter((cell) => cell.hidden === missing[0].hidden).map((c) => `${c.column}/${c.row}`),
    );
    let { column: x0, row: y0 } = missing[0];
    let [x1, y1] = [x0 + 1, y0 + 1];
    const all = (columns, rows) => columns.every((x) => rows.every((y) => open.has(`${x}/${y}`)));
    const range = (a, b) => Array.from({ length: b - a }, (_, i) => a + i);
    const fits = (w, h) => (w * side + 2 * AROUND) * (h * side + 2 * AROUND) <= pixels;
    for (let grown = true; grown; ) {
      grown = false;
      if (fits(x1 - x0 + 1, y1 - y0)) {
        if (all([x1], range(y0, y1))) [x1, grown] = [x1 + 1, true];
        else if (all([x0 - 1], range(y0, y1))) [x0, grown] = [x0 - 1, true];
      }
      if (fits(x1 - x0, y1 - y0 + 1)) {
        if (all(range(x0, x1), [y1])) [y1, grown] = [y1 + 1, true];
        else if (all(range(x0, x1), [y0 - 1])) [y0, grown] = [y0 - 1, true];
      }
    }
    return { x0, y0, x1, y1 };
  }

  async run() {
    if (this.busy || !this.wanted) return;
    const { k } = this.wanted;
    const missing = this.missing(this.wanted);
    if (!missing.length) return;
    const side = sideOf(k);
    const seconds = this.first ? this.quick : this.steady;
    const { x0, y0, x1, y1 } = this.rectangle(missing, k, this.rate * seconds);
    const place = { left: x0 * side, top: y0 * side, reduce: k };
    place.width = Math.min(x1 * side, this.width) - place.left;
    place.height = Math.min(y1 * side, this.height) - place.top;
    const { version, epoch } = this;
    this.first = false;
    this.busy = true;
    this.changed();
    try {
      const start = performance.now();
      const image = await this.fetch(place);
      this.seconds = (performance.now() - start) / 1000;
      const pixels = (place.width + 2 * AROUND) * (place.height + 2 * AROUND);
      this.rate = 0.6 * this.rate + 0.4 * (pixels / this.seconds);
      await this.cut(image, { x0, y0, x1, y1 }, k, version, epoch);
    } catch (error) {
      if (epoch === this.epoch) {
        this.wanted = null; // until the view changes
        this.failed(error);
      }
    }
    this.busy = false;
    this.changed();
    this.run();
  }

  async cut(image, { x0, y0, x1, y1 }, k, version, epoch) {
    const side = sideOf(k) / k;
    const jobs = [];
    for (let row = y0; row < y1; row++) {
      for (let column = x0; column < x1; column++) {
        const x = (column - x0) * side;
        const y = (row - y0) * side;
        const w = Math.min(side, image.width - x);
        const h = Math.min(side, image.height - y);
        const job = createImageBitmap(image, x, y, w, h);
        jobs.push(job.then((piece) => this.put({ k, column, row, image: piece, version }, epoch)));
      }
    }
    await Promise.all(jobs);
    image.close();
    this.trim();
  }

  put(cell, epoch) {
    if (epoch !== this.epoch) {
      cell.image.close();
      return;
    }
    const key = `${cell.k}/${cell.column}/${cell.row}`;
    this.cells.get(key)?.image.close();
    this.cells.delete(key);
    this.cells.set(key, cell);
  }

  trim() {
    let pixels = 0;
    for (const { image } of this.cells.values()) pixels += image.width * image.height;
    for (const [key, { image, k }] of this.cells) {
      if (pixels <= MOST_PIXELS) return;
      if (k === this.wanted?.k) continue;
      pixels -= image.width * image.height;
      image.close();
      this.cells.delete(key);
    }
  }

  /** Draw all cells: those of older options first, then coarse ones, then fine ones. */
  draw(context, toScreen) {
    const current = (cell) => (cell.version === this.version ? 1 : 0);
    const cells = [...this.cells.values()].sort((a, b) => current(a) - current(b) || b.k - a.k);
    for (const { k, column, row, image } of cells) {
      const side = sideOf(k);
      const [x, y] = toScreen(column * side, row * side);
      const right = Math.min(column * side + image.width * k, this.width);
      const bottom = Math.min(row * side + image.height * k, this.height);
      const [x1, y1] = toScreen(right, bottom);
      if (x1 < 0 || y1 < 0 || x > context.canvas.width || y > context.canvas.height) continue;
      context.drawImage(image, x, y, x1 - x, y1 - y);
    }
  }
}
