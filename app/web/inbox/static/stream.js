// The event stream of the server, read with fetch: unlike EventSource it tells the status of a refused request,
// reconnects after any failure, and notices a connection that has gone silent.

const FIRST_PAUSE = 500; // milliseconds; doubles with each failure
const LONGEST_PAUSE = 10_000;
const LONGEST_SILENCE = 40_000; // the server writes a heartbeat every 15 seconds
const LOGGED_OUT = new Set([401, 403]);
const WRONG_CURSOR = new Set([410, 422]); // removed, or of another log

/** The events of a URL, from now on. `report` gets {kind: 'event', type, data} and {kind: 'state', state}.
 *
 * States: `open` (from now on, so what the page shows may be older), `back` (nothing was missed), `away` (trying
 * again), `logged_out` and `gone` (events were missed); after the last two it does nothing until `start`. */
export class Stream {
  state = '';
  #url;
  #report;
  #cursor = null;
  #failures = 0;
  #running = false;
  #wake = () => {};
  #controller = null;

  constructor(url, report) {
    this.#url = url;
    this.#report = report;
  }

  /** Read until `stop`, or connect at once instead of after the pause. */
  start() {
    if (this.#running) this.#wake();
    else this.#run();
  }

  stop() {
    this.#running = false;
    this.#controller?.abort();
    this.#wake();
  }

  async #run() {
    this.#running = true;
    while (this.#running) {
      await this.#read().catch(() => {});
      if (!this.#running) return;
      if (this.state === 'logged_out' || this.state === 'gone') {
        this.#running = false;
        return;
      }
      await this.#pause();
    }
  }

  async #read() {
    this.#controller = new AbortController();
    const watch = new Watch(() => this.#controller.abort());
    try {
      const url = `${this.#url}?after=${encodeURIComponent(this.#cursor ?? 'now')}`;
      const headers = { Accept: 'text/event-stream' };
      const answer = await fetch(url, { headers, cache: 'no-store', signal: this.#controller.signal });
      if (!this.#accepts(answer)) return;
      this.#failures = 0;
      this.#become(this.#cursor === null ? 'open' : 'back');
      await this.#take(answer.body, watch);
    } finally {
      watch.end();
      // A server that ends a stream in order is usually there at once; only what fails is away.
      if (this.#running && this.#failures++ > 0 && this.state !== 'logged_out' && this.state !== 'gone') {
        this.#become('away');
      }
    }
  }

  #accepts(answer) {
    if (LOGGED_OUT.has(answer.status) || answer.redirected) this.#become('logged_out');
    else if (WRONG_CURSOR.has(answer.status)) this.#lose();
    else return answer.ok;
    return false;
  }

  async #take(body, watch) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      watch.reset();
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      blocks.forEach((block) => this.#event(block));
    }
  }

  #event(block) {
    const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: ?(.*)/s, 2)));
    if (fields.event === 'gone') this.#lose();
    else if (fields.data) this.#report({ kind: 'event', type: fields.event, data: JSON.parse(fields.data).data });
    if (fields.id) this.#cursor = fields.id;
  }

  #lose() {
    this.#cursor = null;
    this.#become('gone');
  }

  #become(state) {
    if (state === 'away' && this.state === state) return;
    this.state = state;
    this.#report({ kind: 'state', state });
  }

  #pause() {
    const longest = Math.min(FIRST_PAUSE * 2 ** (this.#failures - 1), LONGEST_PAUSE);
    return new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, longest * (0.5 + Math.random() / 2));
    });
  }
}

/** Calls `late` after a silence. */
class Watch {
  #late;
  #timer;

  constructor(late) {
    this.#late = late;
    this.reset();
  }

  reset() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#late, LONGEST_SILENCE);
  }

  end() {
    clearTimeout(this.#timer);
  }
}
