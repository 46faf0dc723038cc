// Requests to the service: with the API key if it needs one, and again after `Retry-After` if it is busy.

const KEY = "tandem.api-key"; // in sessionStorage: forgotten when the tab is closed
const GIVE_UP_AFTER_MS = 120_000;
const NO_ANSWER_AFTER_MS = 180_000;
const LONGEST_PAUSE_S = 60;
const UNAUTHORIZED = 401;
const BUSY = [429, 503];

/** A request that got no answer, or a refusal. */
export class Failure extends Error {
  /** @param {string} message a sentence for people
   *  @param {boolean} isTransient whether the same request may succeed later */
  constructor(message, isTransient) {
    super(message);
    this.isTransient = isTransient;
  }
}

let key = stored();
let asking = null;
let pausedUntil = 0;

/** Return the header that carries the API key, if there is one. */
export function authorization() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Return the JSON answer and how long it took.
 *
 * @param {string} path relative to the page, so that a proxy may serve the service under a prefix
 * @param {RequestInit} options
 * @param {{askForKey: (isWrong: boolean) => Promise<string>, onPause?: (seconds: number) => void, signal?: AbortSignal}} context
 * @returns {Promise<{answer: any, elapsed_ms: number}>}
 * @throws {Failure} there is no answer, or a refusal that waiting does not cure
 */
export async function ask(path, options, { askForKey, onPause, signal }) {
  const giveUpAt = Date.now() + GIVE_UP_AFTER_MS;
  for (;;) {
    await pause(signal);
    const sentKey = key;
    const began = performance.now();
    const response = await send(path, options, signal);
    if (response.status === UNAUTHORIZED) {
      await renewKey(sentKey, askForKey);
    } else if (BUSY.includes(response.status) && Date.now() < giveUpAt) {
      const seconds = retryAfter(response);
      // All requests wait, not only this one: the service is as busy for them.
      pausedUntil = Math.max(pausedUntil, Date.now() + 1000 * seconds);
      onPause?.(seconds);
    } else if (response.ok) {
      const answer = await response.json().catch(() => {
        throw new Failure("The answer broke off, or is not the service's.", true);
      });
      return { answer, elapsed_ms: performance.now() - began };
    } else {
      throw new Failure(await reason(response), response.status >= 500 || BUSY.includes(response.status));
    }
  }
}

async function send(path, options, signal) {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), NO_ANSWER_AFTER_MS);
  const stop = () => silence.abort();
  signal?.addEventListener("abort", stop);
  try {
    return await fetch(path, { ...options, headers: { ...options.headers, ...authorization() }, signal: silence.signal });
  } catch {
    throw new Failure("The service does not answer. Check that it runs and that you are connected to it.", true);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

async function pause(signal) {
  while (Date.now() < pausedUntil) await new Promise((done) => setTimeout(done, pausedUntil - Date.now()));
  if (signal?.aborted) throw new Failure("The request was cancelled.", true);
}

/** Ask for a key once, however many requests were refused with the same one. */
async function renewKey(refusedKey, askForKey) {
  if (key !== refusedKey) return;
  asking ??= askForKey(refusedKey !== null).finally(() => (asking = null));
  key = await asking;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // The browser keeps no storage for this site. The key lasts until the page is left.
  }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** Return the seconds of `Retry-After`, which is a number or a date; 1 if it is missing. */
function retryAfter(response) {
  const value = response.headers.get("Retry-After") ?? "1";
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Math.min(Math.max(Number.isNaN(seconds) ? 1 : seconds, 0.5), LONGEST_PAUSE_S);
}

/** Return the service's sentence, or the status if a proxy has answered in another form. */
async function reason(response) {
  const refusal = await response.json().catch(() => null);
  const sentence = refusal?.error?.message || `The service answered with status ${response.status}`;
  return `${sentence[0].toUpperCase()}${sentence.slice(1)}${/[.!?]$/.test(sentence) ? "" : "."}`;
}
