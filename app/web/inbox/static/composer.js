// Writing an answer: drafts, what the service says about it, sending, and taking it back.
import { $, $$, announce, arrived, parsed, request, throttled, toast, word } from './page.js';
import { change, isUploading, nameFiles, showFiles, together, upload } from './attachments.js';
import { draftOf, everySend, forgetSend, keepDraft, keepSend, newKey, sendsOf } from './drafts.js';
import { refreshList } from './list.js';
import { isOpen, scrollToEnd, show, thread } from './thread.js';

const KEPT_FIELDS = ['body', 'subject', 'channel', 'to', 'attachments'];
const RETRIED_FOR = 300_000; // milliseconds; an older send waits until it is asked for
const RETRY_AFTER = 4000;
const REFUSAL_SECONDS = 15;
const [FEWEST_ROWS, MOST_ROWS] = [2, 12];
const MAY_PASS = new Set([408, 425, 429]);

/** Sends that are under way in this tab, by key. */
const underWay = new Set();
/** Messages that wait only so that they can be taken back, by id. */
const undoable = new Set();
/** Conversations of which the reader was told that an answer was not sent. */
const told = new Set();
let asked = null; // the preview that is under way

const composer = () => $('#composer');
const field = (name, form = composer()) => form?.elements.namedItem(name) ?? null;
const look = throttled(preview, () => 300);

/** Prepare the composer of a thread that has just been opened. */
export function prepare() {
  const form = composer();
  const open = thread();
  if (!form || !open || form.dataset.ready) return;
  form.dataset.ready = 'true';
  form.addEventListener('inbox:files', () => typed(form));
  const { conversation } = open.dataset;
  const draft = draftOf(conversation);
  form.dataset.key = draft?.key ?? newKey();
  fill(form, draft?.fields ?? {});
  for (const send of sendsOf(conversation)) {
    const item = optimistic(send);
    if (isYoung(send)) deliver(send);
    else notSent(send, item);
  }
  grow();
  look();
}

/** Send again what had no answer. What is older may no longer be true: its thread shows it, and asks. */
export function retryAll() {
  const sends = everySend();
  sends.filter(isYoung).forEach(deliver);
  for (const conversation of new Set(sends.filter((send) => !isYoung(send)).map((send) => send.conversation))) {
    if (told.has(conversation) || isOpen(conversation)) continue;
    told.add(conversation);
    toast(word('not_sent'), { [word('show')]: () => location.assign(`/inbox/c/${conversation}`) }, REFUSAL_SECONDS);
  }
}

const isYoung = (send) => send.at > Date.now() - RETRIED_FOR;

function fill(form, fields) {
  for (const [name, value] of Object.entries(fields)) if (field(name, form)) field(name, form).value = value;
  nameRecipient(form);
  showFiles(form);
  grow();
}

/** Name the address that the chosen channel goes to. */
function nameRecipient(form) {
  const to = field('channel', form)?.selectedOptions?.[0].dataset.to;
  if (to) $('[data-slot="to"]', form).textContent = to;
}

function fieldsOf(form) {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => typeof value === 'string'));
}

/** Keep what a form holds as the draft of its conversation. */
function typed(form) {
  const fields = fieldsOf(form);
  const draft = Object.fromEntries(KEPT_FIELDS.filter((name) => name in fields).map((name) => [name, fields[name]]));
  keepDraft(fields.conversation, { key: form.dataset.key, fields: draft });
  nameRecipient(form);
  grow();
  look();
}

/** Upload files for an answer. Its writer may go on to another conversation meanwhile. */
function attach(form, files) {
  const { conversation } = fieldsOf(form);
  const formNow = () => (isOpen(conversation) && composer()?.dataset.ready ? composer() : null);
  const onChange = () => formNow() && showFiles(formNow());
  const onRefused = (sentence) => toast(sentence, {}, REFUSAL_SECONDS);
  upload(conversation, files, { onChange, onStored: (path) => addTo(conversation, formNow(), path), onRefused });
}

/** Add a file to the form of a conversation, or to its draft while it is not open. */
function addTo(conversation, form, path) {
  if (form) {
    change(form, together(field('attachments', form).value, path));
    return;
  }
  const { key = newKey(), fields = {} } = draftOf(conversation) ?? {};
  keepDraft(conversation, { key, fields: { ...fields, attachments: together(fields.attachments, path) } });
}

/** Make the field as high as its text. By its rows, since the page's policy forbids styles in attributes. */
function grow() {
  const body = field('body');
  if (!body) return;
  body.rows = FEWEST_ROWS;
  while (body.scrollHeight > body.clientHeight && body.rows < MOST_ROWS) body.rows += 1;
}

// What the service says about the text

async function preview() {
  const form = composer();
  asked?.abort();
  if (!form?.dataset.preview) return;
  const fields = fieldsOf(form);
  if (!fields.body && !fields.attachments) {
    tell(form, null);
    return;
  }
  asked = new AbortController();
  const answer = await request(form.dataset.preview, { fields, signal: asked.signal });
  const { body, attachments } = fieldsOf(form);
  const unchanged = composer() === form && body === fields.body && attachments === fields.attachments;
  if (unchanged) tell(form, answer.ok ? await answer.json() : null);
}

function tell(form, said) {
  const segments = $('#segments');
  if (segments) {
    const { count = 0 } = said?.segments ?? {};
    segments.textContent = count ? word('segments', { n: count }) : '';
    segments.title = (said?.hints ?? []).join(' ');
    segments.classList.toggle('many', count > 3);
  }
  const sentences = (said?.refused ?? []).map(({ message }) => message);
  if (said?.suppressed_by) sentences.push(said.suppressed_by.sentence);
  complain(sentences);
}

function complain(sentences) {
  const place = $('#composer-problems');
  if (!place) return;
  const lines = sentences.map((sentence) => {
    const line = document.createElement('p');
    line.textContent = sentence;
    return line;
  });
  place.replaceChildren(...lines);
  place.hidden = !lines.length;
}

// Sending

function submit(event) {
  const form = event.target;
  event.preventDefault();
  if (isUploading(thread().dataset.conversation)) {
    complain([word('still_uploading')]);
    return;
  }
  if (!field('body', form).value.trim() && !field('attachments', form).value) {
    field('body', form).focus();
    return;
  }
  const send = {
    key: form.dataset.key,
    conversation: thread().dataset.conversation,
    url: form.getAttribute('action'),
    fields: { ...fieldsOf(form), key: form.dataset.key },
    at: Date.now(),
  };
  keepSend(send);
  clear(form);
  optimistic(send);
  scrollToEnd();
  deliver(send);
}

function clear(form) {
  keepDraft(thread().dataset.conversation, null);
  fill(form, { body: '', attachments: '' });
  form.dataset.key = newKey();
  tell(form, null);
}

/** Show a message that the server has not confirmed, in the look of the page's template. */
function optimistic(send) {
  const item = $('#sending').content.cloneNode(true).firstElementChild;
  item.dataset.key = send.key;
  $('[data-slot=body]', item).textContent = send.fields.body;
  nameFiles($('[data-slot=files]', item), send.fields.attachments);
  $('#messages').append(item);
  state(item, 'sending', word('sending'));
  return item;
}

function state(item, name, text, buttons = {}) {
  item.classList.toggle('not-sent', name === 'not-sent');
  const place = $('[data-slot=status]', item);
  place.textContent = text;
  for (const [role, action] of Object.entries(buttons)) {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset[role] = '';
    button.textContent = word(role === 'retry' ? 'try_again' : 'edit');
    button.addEventListener('click', action);
    place.append(' ', button);
  }
}

const itemOf = ({ key }) => $$('#messages > [data-key]').find((item) => item.dataset.key === key) ?? null;

async function deliver(send) {
  if (underWay.has(send.key)) return;
  underWay.add(send.key);
  const item = itemOf(send);
  if (item) state(item, 'sending', word('sending'));
  try {
    const answer = await request(send.url, { fields: { ...send.fields, csrf: document.body.dataset.csrf ?? '' } });
    await settle(send, answer);
  } catch {
    failed(send); // no answer: it may be stored, so a retry has the same key
  } finally {
    underWay.delete(send.key);
  }
}

async function settle(send, answer) {
  if (answer.ok) stored(send, parsed(await answer.text()));
  else if (answer.status === 401) notSent(send);
  else if (answer.status >= 500 || MAY_PASS.has(answer.status)) failed(send);
  else refused(send, parsed(await answer.text()));
}

/** The server has it: only now the draft is forgotten and the message shown as the server does. */
function stored(send, found) {
  forgetSend(send);
  refreshList(send.conversation);
  const item = $('[data-message]', found);
  if (!item) return;
  if (Number(send.fields.undo)) {
    undoable.add(item.dataset.message);
    offerUndo(send, item.dataset.message);
  }
  if (isOpen(send.conversation)) show(item, itemOf(send));
}

function failed(send) {
  notSent(send);
  deliverAgain(send);
}

/** Retry a send for some minutes, as long as its reader has not taken it back. */
function deliverAgain(send) {
  if (!isYoung(send)) return;
  setTimeout(() => sendsOf(send.conversation).some(({ key }) => key === send.key) && deliver(send), RETRY_AFTER);
}

function notSent(send, item = itemOf(send)) {
  if (!item) return;
  announce(word('not_sent'));
  state(item, 'not-sent', word('not_sent'), {
    retry: () => deliver(send),
    edit: () => {
      forgetSend(send);
      item.remove();
      giveBack(send);
    },
  });
}

/** Nothing was stored, so the text goes back to its writer with the reasons. */
function refused(send, found) {
  forgetSend(send);
  itemOf(send)?.remove();
  giveBack(send);
  const lines = $$('li, p', found).map((line) => line.textContent.trim());
  const sentences = lines.length ? lines : [found.textContent.trim() || word('not_sent')];
  if (isOpen(send.conversation)) complain(sentences);
  else toast(sentences.join(' '));
}

/** Put an answer back into the composer, in front of what has been written since. */
function giveBack({ conversation, fields }) {
  const form = isOpen(conversation) ? composer() : null;
  const since = form ? fieldsOf(form) : (draftOf(conversation)?.fields ?? {});
  const body = [fields.body, since.body].filter(Boolean).join('\n\n');
  const attachments = together(fields.attachments, since.attachments);
  const kept = Object.fromEntries(KEPT_FIELDS.filter((name) => name in fields).map((name) => [name, fields[name]]));
  const key = form?.dataset.key ?? newKey();
  keepDraft(conversation, { key, fields: { ...kept, body, attachments } });
  if (!form) return;
  fill(form, { ...kept, body, attachments });
  field('body', form).focus();
}

function offerUndo(send, message) {
  const seconds = Number(send.fields.undo);
  toast(word('sending_soon', { seconds }), { [word('undo')]: () => undo(send, message) }, seconds);
}

async function undo(send, message) {
  try {
    const answer = await request(`/inbox/messages/${message}/cancel`, { fields: {} });
    if (!answer.ok) {
      toast(word('too_late'));
      return;
    }
    const item = $('[data-message]', parsed(await answer.text()));
    if (item && isOpen(send.conversation)) show(item);
    giveBack(send);
    announce(word('undone'));
  } catch {
    toast(word('away'), { [word('try_again')]: () => undo(send, message) });
  }
}

/** Show a message that can be taken back as one that is being sent: its writer has not scheduled it. */
function showAsSending(item) {
  if (!undoable.has(item.dataset?.message) || item.dataset.status !== 'scheduled') return;
  $('.state', item).textContent = word('sending');
  $('button[hx-post$="/cancel"]', item)?.remove();
}

document.addEventListener('inbox:arrived', ({ detail }) => showAsSending(detail));
document.addEventListener('submit', (event) => event.target.id === 'composer' && submit(event));
document.addEventListener('input', ({ target }) => target.form?.id === 'composer' && target.name && typed(target.form));
document.addEventListener('change', ({ target }) => {
  if (target.type === 'file' && target.form?.id === 'composer') {
    attach(target.form, [...target.files]);
    target.value = ''; // the same file can be chosen again
  } else if (target.form?.id === 'composer') typed(target.form);
});
for (const name of ['paste', 'drop', 'dragover']) {
  document.addEventListener(name, (event) => {
    const form = event.target.closest?.(name === 'paste' ? '#composer' : 'main') && composer();
    const data = event.clipboardData ?? event.dataTransfer;
    // A table or a text that is copied from an office program comes with its picture.
    if (!form || !data?.types.includes('Files') || (name === 'paste' && data.types.includes('text/plain'))) return;
    event.preventDefault();
    if (name !== 'dragover') attach(form, [...data.files]);
  });
}
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  const { form } = event.target;
  if (form?.id === 'composer') form.requestSubmit();
});
