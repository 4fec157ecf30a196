// The start of the page's script.
import { $, $$, isSeen, loggedOut, parsed, remember, toast, word } from './page.js';
import { prepare, retryAll } from './composer.js';
import { forgetOld } from './drafts.js';
import { follow } from './live.js';
import { entitle, mark, refreshList } from './list.js';
import { groupByDay, localise } from './times.js';
import { followEnd, isOpen, markRead, received, refreshThread, scrollToStart, thread } from './thread.js';
import { followSearch } from './search.js';
import './controls.js';
import './keyboard.js';

function onEvent(type, data) {
  const { conversation_id: conversation, message_id: message } = data;
  if (type === 'message.received') received(data);
  if (conversation) refreshList(conversation);
  if (!conversation || !isOpen(conversation)) return;
  const names = Object.keys(data.changed ?? {});
  if (names.length && names.every((name) => name === 'unread_count')) thread().dataset.unread = data.changed.unread_count;
  else refreshThread(message);
}

function onReturn() {
  refreshList();
  refreshThread();
  retryAll();
}

/** Do what the list and the thread need once they are shown. */
function settled() {
  remember($$('[data-message], [data-conversation][id^=row-], #thread-head, #person-tags'));
  localise(document.body);
  if ($('#messages')) groupByDay($('#messages'));
  if ($('#list')) $('#list').dataset.open = thread()?.dataset.conversation ?? '';
  mark(thread()?.dataset.conversation);
  entitle();
  followSearch();
}

function opened() {
  if (!thread()) return;
  prepare();
  scrollToStart();
  followEnd();
  markRead();
  // On a small screen the list is hidden now, and the focus with it.
  if (document.activeElement !== document.body && !isSeen(document.activeElement)) thread().focus();
}

/** Let the rest of a list load with the next scrolling, after a failure: htmx loads it once. */
function mayBeRevealedAgain(element) {
  element.removeAttribute('data-hx-revealed');
}

document.addEventListener('inbox:arrived', ({ detail }) => localise(detail));
document.addEventListener('inbox:changed', ({ detail }) => refreshList(detail.conversation));
document.addEventListener('htmx:afterSettle', ({ target }) => {
  settled();
  if (target.id === 'thread' || target.querySelector?.('#thread')) opened();
});
document.addEventListener('htmx:responseError', ({ detail: { elt, xhr } }) => {
  mayBeRevealedAgain(elt);
  if (xhr.status === 401) loggedOut();
  else toast($$('li, p', parsed(xhr.responseText)).map((line) => line.textContent.trim()).join(' ') || word('away'));
});
document.addEventListener('htmx:sendError', ({ detail: { elt } }) => {
  mayBeRevealedAgain(elt);
  toast(word('away'));
});

forgetOld();
settled();
opened();
follow({ onEvent, onReturn });
