// Requests to the service that this page came from.

const KEY = "denoise-ext-token";

/** An answer other than success: its status, and the service's own line. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Keep a token for this tab; one in the address is taken out of it. */
export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

if (location.hash.startsWith("#token=")) {
  keepToken(decodeURIComponent(location.hash.slice(7)));
  history.replaceState(null, "", location.pathname + location.search);
}

async function ask(path, query = {}, options = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const address = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(address, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "The service does not answer. Is it still running?");
  }
  if (response.ok) return response;
  let message = `The service answers with status ${response.status}.`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // no JSON: a proxy's own page
  }
  throw new ServiceError(response.status, message);
}

/** The networks and limits of the service. */
export async function models() {
  return (await ask("v1/models")).json();
}

/** A photograph with noise, as a file. */
export async function sample() {
  const blob = await (await ask("v1/sample")).blob();
  return new File([blob], "sample.png", { type: blob.type });
}

/** What the service finds in a file; it keeps the picture for `part`. */
export async function analyse(file, signal) {
  const options = { method: "POST", body: file, signal };
  return (await ask("v1/analyse", { keep: true }, options)).json();
}

/** A part of a kept picture as an image, and the answer's headers. */
export async function part(id, place, how, signal) {
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await ask(`v1/pictures/${id}/part`, { ...place, ...how }, { signal });
      const image = await createImageBitmap(await response.blob());
      return { image, headers: response.headers };
    } catch (error) {
      if (error.status !== 429 || attempt === 10) throw error;
      await new Promise((resolve) => setTimeout(resolve, 300 * (attempt + 1)));
    }
  }
}

/** The whole file, denoised: its content and suffix. */
export async function denoise(file, how, signal) {
  const options = { method: "POST", body: file, signal };
  const response = await ask("v1/denoise", how, options);
  return { blob: await response.blob(), suffix: response.headers.get("Denoise-Suffix") };
}

/** Forget a kept picture; also while the page is closed. */
export function forget(id) {
  ask(`v1/pictures/${id}`, {}, { method: "DELETE", keepalive: true }).catch(() => {});
}
