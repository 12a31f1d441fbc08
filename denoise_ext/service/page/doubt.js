// Uncertainty as colours over the picture: clear where the network is sure.

const STEPS = 256;
// Share of the noise's level, red, green, blue, opacity. The same colours are in style.css.
const STOPS = [
  [0, 255, 214, 80, 0],
  [0.35, 255, 150, 40, 0.6],
  [1, 208, 16, 128, 0.95],
];

function colourOf(share) {
  const above = Math.max(1, STOPS.findIndex(([at]) => share <= at));
  const [low, high] = [STOPS[above - 1], STOPS[above]];
  const part = (share - low[0]) / (high[0] - low[0]);
  return low.slice(1).map((value, i) => value + part * (high[i + 1] - value));
}

const COLOURS = Array.from({ length: STEPS }, (_, i) => colourOf(i / (STEPS - 1)));

/**
 * A gray map of standard deviations in colours.
 * @param {ImageBitmap} image is closed
 * @param {number} scale levels of the map for each level of the 0-255 scale
 * @param {number} most the deviation of the strongest colour, on the 0-255 scale
 */
export async function coloured(image, scale, most) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height);
  image.close();
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    const share = Math.min(1, data[i] / scale / most);
    const [red, green, blue, opacity] = COLOURS[Math.round(share * (STEPS - 1))];
    data[i] = red;
    data[i + 1] = green;
    data[i + 2] = blue;
    data[i + 3] = 255 * opacity;
  }
  return createImageBitmap(pixels);
}
