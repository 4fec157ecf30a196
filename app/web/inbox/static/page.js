// What all scripts of the page use: its data, words, requests and fragments.

export const { account = '', events = '/inbox/events' } = document.body.dataset;

const WORDS = JSON.parse(document.getElementById('words')?.textContent || '{}');

/** A word of the page's language, with `{name}` replaced. With `n`, its form for that number. */
export function word(key, values = {}) {
  const form = 'n' in values ? `${key}_${new Intl.PluralRules(document.documentElement.lang).select(values.n)}` : key;
  const found = WORDS[form] ?? WORDS[`${key}_other`] ?? WORDS[key] ?? key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

export const isSeen = (element) => element.checkVisibility?.() ?? element.offsetParent !== null;

const LONGEST_WAIT = 20_000; // milliseconds, as all times here
const RETRY_AFTER = 3000;

/** The answer of our server. Unlike a page's fetch it sends the CSRF token, and ends after 20 seconds, or `wait`.
 * A 401 is also told to the page. */
export async function request(url, { fields, wait = LONGEST_WAIT, ...options } = {}) {
  const headers = { 'HX-Request': 'true', ...options.headers };
  if (fields) options = { body: new URLSearchParams(fields), ...options };
  if (options.body) {
    options = { method: 'POST', ...options };
    headers['X-CSRF-Token'] = document.body.dataset.csrf ?? '';
  }
  const signal = AbortSignal.any([AbortSignal.timeout(wait), ...(options.signal ? [options.signal] : [])]);
  const answer = await fetch(url, { cache: 'no-store', redirect: 'error', ...options, headers, signal });
  if (answer.status === 401) loggedOut();
  return answer;
}

/** Tell the page's other scripts that the session has ended. */
export function loggedOut() {
  document.dispatchEvent(new CustomEvent('inbox:logged-out'));
}

/** The content of an HTML answer, as a fragment that is not in the page yet. */
export function parsed(html) {
  const template = document.createElement('template');
  template.innerHTML = html;
  return template.content;
}

/** The fragment at a URL; null if there is none there (204, 404). Throws where the server can't answer. */
export async function fragment(url) {
  const answer = await request(url);
  if (answer.status === 204 || answer.status === 404) return null;
  if (!answer.ok) throw new Error(`${answer.status} at ${url}`);
  return parsed(await answer.text());
}

/** The HTML that elements came as; what the page has changed in them since does not make them others. */
const sources = new WeakMap();

/** Take note of elements that the server has just sent. */
export function remember(elements) {
  for (const each of elements) if (!sources.has(each)) sources.set(each, each.outerHTML);
}

/** True if an element came as the same HTML as a fresh one. */
export const isSame = (shown, fresh) => sources.get(shown) === fresh.outerHTML;

/** Tell the page's other scripts that elements are new. */
export function arrived(element) {
  window.htmx?.process(element);
  document.dispatchEvent(new CustomEvent('inbox:arrived', { detail: element }));
}

/** Call `work` soon, and then at most once in `pause()` milliseconds; calls meanwhile become one. A failure is retried. */
export function throttled(work, pause) {
  let timer = null;
  let wanted = false;
  async function run() {
    wanted = false;
    let rest = pause();
    try {
      await work();
    } catch {
      wanted = true;
      rest = RETRY_AFTER;
    }
    timer = setTimeout(next, rest);
  }
  function next() {
    timer = null;
    if (wanted) ask();
  }
  function ask() {
    wanted = true;
    timer ??= setTimeout(run, 30);
  }
  return ask;
}

/** Say something to people who don't see the page. */
export function announce(text) {
  const region = $('#announcements');
  if (region) region.textContent = text;
}

/** Show a sentence with buttons, {label: action}, for a time. Returns a function that removes it. */
export function toast(text, buttons = {}, seconds = 6) {
  const shown = document.createElement('div');
  shown.className = 'toast';
  const sentence = document.createElement('span');
  sentence.textContent = text;
  shown.append(sentence);
  const remove = () => shown.remove();
  for (const [label, action] of Object.entries(buttons)) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = label;
    button.addEventListener('click', () => (remove(), action()));
    shown.append(button);
  }
  $('#toasts')?.append(shown);
  setTimeout(remove, seconds * 1000);
  return remove;
}
