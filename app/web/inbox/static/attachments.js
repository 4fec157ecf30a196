// Files of an answer: uploaded as soon as they are chosen, shown beside its text, and kept with its draft.
import { $, announce, parsed, request, word } from './page.js';

const LONGEST_UPLOAD = 600_000; // milliseconds

/** The files that are being uploaded, by conversation: their reader may go on to another one meanwhile. */
const underWay = new Map();

/** The paths in a field `attachments`, one in each line. */
const pathsIn = (written) => (written ?? '').split('\n').filter(Boolean);

const nameOf = (path) => decodeURIComponent(path.split('/').pop());

/** The field `attachments` of two drafts that become one. */
export const together = (...written) => [...new Set(written.flatMap(pathsIn))].join('\n');

/** True while files for a conversation are on their way. */
export const isUploading = (conversation) => underWay.has(conversation);

/** Show the files of a form: those that its field has, and those that are on their way. */
export function showFiles(form) {
  const { attachments, conversation } = form.elements;
  const waiting = (underWay.get(conversation.value) ?? []).map(({ name }) => labelled(name, 'uploading'));
  $('.files', form).replaceChildren(...pathsIn(attachments.value).map((path) => item(form, path)), ...waiting);
}

/** Show the names of the files that a send has, in `place`. */
export function nameFiles(place, written) {
  place.replaceChildren(...pathsIn(written).map((path) => labelled(nameOf(path))));
  place.hidden = !written;
}

/**
 * Upload files for a conversation, one after another: they would take all the connections that a browser has.
 * `onChange()` is told of each beginning and end, `onStored(path)` of each file, `onRefused(sentence)` of the others.
 */
export async function upload(conversation, files, { onChange, onStored, onRefused }) {
  underWay.set(conversation, [...(underWay.get(conversation) ?? []), ...files]);
  onChange();
  for (const file of files) {
    announce(word('uploading', { name: file.name }));
    const { path, reason } = await stored(file);
    const left = underWay.get(conversation).filter((each) => each !== file);
    if (left.length) underWay.set(conversation, left);
    else underWay.delete(conversation);
    if (path) onStored(path);
    else onRefused(`${word('not_uploaded', { name: file.name })} ${reason}`.trim());
    onChange();
  }
}

/** The path of a file once it is stored, or the reason why it is not. */
async function stored(file) {
  const headers = { 'Content-Type': file.type || 'application/octet-stream' };
  try {
    const url = `/inbox/files?name=${encodeURIComponent(file.name)}`;
    const answer = await request(url, { body: file, headers, wait: LONGEST_UPLOAD });
    if (answer.ok) return await answer.json();
    return { reason: $('li, p', parsed(await answer.text()))?.textContent.trim() ?? '' };
  } catch {
    return { reason: '' };
  }
}

/** Put other files into a form, and tell it. */
export function change(form, written) {
  form.elements.attachments.value = written;
  showFiles(form);
  form.dispatchEvent(new CustomEvent('inbox:files'));
}

function item(form, path) {
  const shown = labelled(nameOf(path));
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'quiet';
  button.textContent = '\u00d7';
  button.setAttribute('aria-label', word('remove_file', { name: nameOf(path) }));
  button.addEventListener('click', () => {
    change(form, pathsIn(form.elements.attachments.value).filter((each) => each !== path).join('\n'));
    form.elements.body.focus();
  });
  shown.firstElementChild.append(button);
  return shown;
}

function labelled(name, ...classes) {
  const shown = document.createElement('li');
  const file = document.createElement('span');
  const text = document.createElement('span');
  file.classList.add('file', ...classes);
  text.textContent = name;
  file.append(text);
  shown.append(file);
  return shown;
}
