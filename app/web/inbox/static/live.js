// The connection to the server: one stream for all tabs, and the banner while there is none.
import { $, account, events, word } from './page.js';
import { Stream } from './stream.js';

const BANNER_AFTER = 1000; // milliseconds; a shorter interruption is not shown
const WORKER_WITHIN = 5000; // a worker that is not there by then is done without

let timer = null;
let isOut = false;

/** Hand each event to `onEvent(type, data)`, and call `onReturn()` where the page may have missed some. */
export function follow({ onEvent, onReturn }) {
  const source = connected(hear);
  addEventListener('online', source.retry);
  addEventListener('pagehide', source.leave);
  addEventListener('pageshow', ({ persisted }) => persisted && location.reload());
  addEventListener('focus', () => isOut && source.retry());

  function hear(said) {
    if (said.kind === 'event') {
      onEvent(said.type, said.data ?? {});
      return;
    }
    const isOn = said.state === 'open' || said.state === 'back';
    if (isOut && isOn) location.reload(); // another session, with another token for forms
    show(said.state);
    if (isOn) onReturn();
    else if (said.state === 'gone') location.reload();
  }
}

document.addEventListener('inbox:logged-out', () => show('logged_out'));

/** The stream that all tabs share, or one of this tab where the worker behind it can't be started. */
function connected(hear) {
  const url = new URL(events, location.href).href;
  let source = window.SharedWorker ? shared(url, hear, doWithout) : alone(url, hear);
  function doWithout() {
    source.leave();
    source = alone(url, hear);
  }
  return { retry: () => source.retry(), leave: () => source.leave() };
}

function alone(url, hear) {
  const stream = new Stream(url, hear);
  stream.start();
  return { retry: () => stream.start(), leave: () => stream.stop() };
}

function shared(url, hear, doWithout) {
  const script = new URL('./events-worker.js', import.meta.url);
  const worker = new SharedWorker(script, { type: 'module', name: `events of ${account}` });
  const { port } = worker;
  let waiting = setTimeout(giveUp, WORKER_WITHIN);
  let hasLeft = false;
  function giveUp() {
    if (waiting !== null) doWithout();
  }
  function stopWaiting() {
    clearTimeout(waiting);
    waiting = null;
  }
  worker.addEventListener('error', giveUp);
  port.addEventListener('message', ({ data }) => {
    stopWaiting();
    if (!hasLeft && data.kind !== 'here') hear(data);
  });
  port.start();
  port.postMessage({ say: 'listen', url });
  function leave() {
    stopWaiting();
    hasLeft = true;
    port.postMessage({ say: 'leave' });
  }
  return { retry: () => port.postMessage({ say: 'retry' }), leave };
}

function show(state) {
  const banner = $('#connection');
  isOut = state === 'logged_out';
  if (!banner) return;
  clearTimeout(timer);
  if (state === 'away') timer = setTimeout(() => fill(banner, state, word('away')), BANNER_AFTER);
  else if (state === 'logged_out') fill(banner, state, word('logged_out'), loginLink());
  else banner.hidden = true;
}

function fill(banner, state, ...content) {
  banner.dataset.state = state;
  banner.replaceChildren(...content);
  banner.hidden = false;
}

function loginLink() {
  const link = document.createElement('a');
  link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = word('log_in');
  return link;
}
