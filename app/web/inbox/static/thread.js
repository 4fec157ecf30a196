// The conversation that is open: its messages as they change, and that they have been read.
import { $, $$, announce, arrived, fragment, isSame, remember, request, throttled, word } from './page.js';
import { groupByDay } from './times.js';

const MOST_AT_ONCE = 5; // messages; for more the thread is fetched as a whole
const PARTS = ['thread-head', 'person-tags'];
const NEAR_THE_END = 120; // pixels

/** Messages of the open thread that have changed since the last look. */
let changed = new Set();
let all = false;
let mayRead = true;

const look = throttled(refresh, () => 300);

/** The element of the open conversation, or null. */
export function thread() {
  return $('#thread[data-conversation]');
}

/** Bring the open thread up to date soon: with a message that has changed, or as a whole. */
export function refreshThread(message) {
  if (message === undefined) all = true;
  else changed.add(String(message));
  look();
}

/** True if an event is about the conversation that is open. */
export function isOpen(conversation) {
  return thread()?.dataset.conversation === String(conversation);
}

async function refresh() {
  const open = thread();
  const [ids, everything] = [changed, all];
  [changed, all] = [new Set(), false];
  if (!open) return;
  try {
    if (everything || ids.size > MOST_AT_ONCE) await takeAll(open);
    else for (const id of ids) await takeOne(open, id);
  } catch (error) {
    all = true;
    throw error;
  }
  if (thread() === open) markRead();
}

async function takeAll(open) {
  const found = await fragment(`/inbox/c/${open.dataset.conversation}`);
  if (!found || thread() !== open) return;
  PARTS.forEach((id) => takePart(document.getElementById(id), found.getElementById(id)));
  $$('[data-message]', found).forEach((item) => show(item));
  open.dataset.unread = $('#thread', found)?.dataset.unread ?? open.dataset.unread;
}

/** Show a part as it is now, unless its reader is in it. */
function takePart(shown, part) {
  if (!shown || !part || isSame(shown, part) || shown.contains(document.activeElement)) return;
  remember([part]);
  shown.replaceWith(part);
  arrived(part);
}

async function takeOne(open, id) {
  const found = await fragment(`/inbox/messages/${id}/item`);
  if (thread() !== open) return;
  const item = found && $('[data-message]', found);
  if (item) show(item);
  else document.getElementById(`message-${id}`)?.remove();
}

/** Show a message: in place of its earlier form, or of `pending`, or where it belongs by its time. */
export function show(item, pending = null) {
  const messages = $('#messages');
  const shown = document.getElementById(item.id);
  if (shown && isSame(shown, item)) {
    pending?.remove();
    return;
  }
  remember([item]);
  const atEnd = isAtEnd();
  if (shown) {
    keepOpen(shown, item);
    shown.replaceWith(item);
    pending?.remove();
  } else if (pending) pending.replaceWith(item);
  else place(messages, item);
  arrived(item);
  groupByDay(messages);
  if (atEnd) scrollToEnd();
}

/** Put a message before those that are younger; pending ones stay last. */
function place(messages, item) {
  const at = Date.parse(item.dataset.at);
  const older = $$(':scope > [data-message]', messages).filter((each) => Date.parse(each.dataset.at) <= at);
  const last = older.at(-1);
  if (last) last.after(item);
  else messages.prepend(item);
}

/** What is unfolded stays so. */
function keepOpen(from, to) {
  const details = $$('details', to);
  $$('details', from).forEach((each, index) => details[index]?.toggleAttribute('open', each.open));
}

function scroller() {
  return $('#messages')?.closest('[data-scrolls]') ?? $('#messages');
}

function isAtEnd() {
  const box = scroller();
  return !box || box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_THE_END;
}

/** Scroll to the message that the address names, or else to the end. */
export function scrollToStart() {
  const named = /^#message-\d+$/.test(location.hash) ? $(`#messages > ${location.hash}`) : null;
  if (named) {
    named.classList.add('named');
    named.scrollIntoView({ block: 'center' });
  } else scrollToEnd();
}

export function scrollToEnd() {
  const box = scroller();
  if (box) box.scrollTop = box.scrollHeight;
}

let isFollowed = true;
const sizes = new ResizeObserver(() => isFollowed && scrollToEnd());

// Who unfolds something wants to see its beginning.
document.addEventListener('click', ({ target }) => target.closest?.('#messages summary') && (isFollowed = false), true);

/** Keep the end of a thread in sight while it is there, as pictures load and the composer grows. */
export function followEnd() {
  const box = scroller();
  sizes.disconnect();
  if (!box) return;
  const note = () => (isFollowed = isAtEnd());
  note();
  box.addEventListener('scroll', note, { passive: true });
  sizes.observe(box);
  sizes.observe($('#messages'));
}

/** Tell the server that the open thread was read, while it is seen. */
export async function markRead() {
  const open = thread();
  if (!open || !mayRead || !document.hasFocus() || !Number(open.dataset.unread)) return;
  const unread = open.dataset.unread;
  open.dataset.unread = '0';
  try {
    // The newest by id: one that was written before our answer may have come in after it.
    const shown = $$('#messages > [data-message]').map((item) => Number(item.dataset.message));
    const fields = shown.length ? { up_to: Math.max(...shown) } : {};
    const answer = await request(`/inbox/c/${open.dataset.conversation}/read`, { fields });
    mayRead = answer.status !== 403; // a key that may only read
  } catch {
    open.dataset.unread = unread;
  }
}

/** Take note of a message that came in. */
export function received({ conversation_id: conversation, message }) {
  announce(word('new_message', { name: message?.from_name || message?.from || '' }));
  if (isOpen(conversation)) thread().dataset.unread = Number(thread().dataset.unread || 0) + 1;
}

addEventListener('focus', markRead);
