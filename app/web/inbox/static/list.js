// The list of conversations: kept as the server would show it now.
import { $, $$, arrived, fragment, isSame, remember, throttled } from './page.js';

const PAUSES = { visible: 1000, hidden: 10_000 };
const MOST_SINGLE = 5; // rows that are fetched one by one
const title = document.title.split(' – ').at(-1);

/** Conversations that have changed since the last look. */
let changed = new Set();
/** True where rows that are further down may have changed too. */
let all = false;

const look = throttled(refresh, () => PAUSES[document.visibilityState] ?? PAUSES.visible);

/** Bring the list up to date soon: with a conversation that has changed, or with all that may have. */
export function refreshList(conversation) {
  if (conversation === undefined) all = true;
  else changed.add(String(conversation));
  look();
}

async function refresh() {
  const list = $('#list');
  if (!list?.dataset.src) return;
  const [ids, everything] = [changed, all];
  [changed, all] = [new Set(), false];
  try {
    const found = await fragment(list.dataset.src);
    if ($('#list') === list && found) await take(list, found, ids, everything);
  } catch (error) {
    all = true; // the next look makes up for this one
    throw error;
  }
}

async function take(list, found, ids, everything) {
  const focused = document.activeElement?.closest('[data-conversation]')?.id;
  const fresh = rows(found);
  const here = new Set(fresh.map((row) => row.id));
  const others = rows(list).filter((row) => !here.has(row.id));
  const stale = others.filter((row) => ids.has(row.dataset.conversation));
  // Where many have changed, the list begins anew: the rest is loaded as one scrolls.
  const anew = everything || stale.length > MOST_SINGLE;
  const ends = anew || !$('[data-more]', found);
  let before = null;
  for (const row of fresh) {
    const kept = put(row);
    if (before ? before.nextElementSibling !== kept : list.firstElementChild !== kept) {
      before ? before.after(kept) : list.prepend(kept);
    }
    before = kept;
  }
  if (ends) others.forEach((row) => row.remove());
  else await Promise.all(stale.map((row) => again(list, row)));
  if (anew) replaceMore(list, found);
  if (focused && !document.activeElement?.closest(`#${focused}`)) $(`#${focused} a`)?.focus();
  mark(list.dataset.open);
  $$(':scope > .empty', list).forEach((line) => line.remove());
  if (!rows(list).length) list.append(...$$('.empty', found));
  entitle();
}

function rows(within) {
  return $$('[data-conversation]', within).filter((each) => each.id.startsWith('row-'));
}

/** The row that is to be shown: the one that is there if nothing has changed, or the new one in its place. */
function put(row) {
  const shown = document.getElementById(row.id);
  if (shown && isSame(shown, row)) return shown;
  remember([row]);
  shown?.replaceWith(row);
  arrived(row);
  return row;
}

/** Fetch a row that is further down. Without an answer it does not belong here any more. */
async function again(list, row) {
  const query = list.dataset.src.split('?')[1] ?? '';
  const found = await fragment(`/inbox/c/${row.dataset.conversation}/item?${query}`);
  const fresh = found && rows(found)[0];
  if (fresh) put(fresh);
  else row.remove();
}

function replaceMore(list, found) {
  $('[data-more]', list.parentElement)?.remove();
  const more = $('[data-more]', found);
  if (more) {
    list.append(more);
    arrived(more);
  }
}

/** Mark the row of the conversation that is open. */
export function mark(conversation) {
  for (const link of $$('#list [aria-current]')) link.removeAttribute('aria-current');
  $(`#row-${conversation} a`)?.setAttribute('aria-current', 'true');
}

/** Show the open conversation and the number of unread messages in the title. */
export function entitle() {
  const unread = rows(document).reduce((sum, row) => sum + Number(row.dataset.unread || 0), 0);
  const name = $('#thread[data-conversation]')?.dataset.name;
  document.title = `${unread ? `(${unread}) ` : ''}${name ? `${name} – ` : ''}${title}`;
}
