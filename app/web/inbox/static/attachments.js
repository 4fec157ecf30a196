// Files of an answer: uploaded as soon as they are chosen, shown beside its text, and kept with its draft.
import { $, $$, announce, parsed, request, word } from './page.js';

const LONGEST_UPLOAD = 600_000; // milliseconds

/** The paths of files in a form's field `attachments`, one in each line. */
const pathsIn = (written) => (written ?? '').split('\n').filter(Boolean);

const nameOf = (path) => decodeURIComponent(path.split('/').pop());

/** True while files of a form are on their way. */
export const isUploading = (form) => $('.file.uploading', form) !== null;

/** Show the files of a form as its field has them. */
export function showFiles(form) {
  $$('.files > :not(:has(.uploading))', form).forEach((item) => item.remove());
  $('.files', form).prepend(...pathsIn(form.elements.attachments.value).map((path) => item(form, path)));
}

/** Show the names of the files that a send has, in `place`. */
export function nameFiles(place, written) {
  place.replaceChildren(...pathsIn(written).map((path) => labelled(nameOf(path))));
  place.hidden = !written;
}

/** The field `attachments` of two drafts that become one. */
export const together = (...written) => [...new Set(written.flatMap(pathsIn))].join('\n');

/**
 * Upload files, and put their paths into the field of the form, in the order of the files. `formNow` gives the form
 * that shows the conversation when an upload ends, since a reader may have gone on meanwhile. `failed` takes sentences.
 */
export async function addFiles(form, files, { formNow, failed }) {
  const begun = files.map((file) => ({ file, shown: showWaiting(form, file), ends: upload(file) }));
  const sentences = [];
  for (const { file, shown, ends } of begun) {
    const { path, reason } = await ends;
    shown.remove();
    const target = formNow() ?? form;
    if (path) change(target, together(target.elements.attachments.value, path));
    else sentences.push(`${word('not_uploaded', { name: file.name })} ${reason}`.trim());
  }
  if (sentences.length) failed(sentences);
}

function showWaiting(form, file) {
  const shown = labelled(file.name);
  shown.firstElementChild.classList.add('uploading');
  $('.files', form).append(shown);
  announce(word('uploading', { name: file.name }));
  return shown;
}

/** The path of a file once it is stored, or the reason why it is not. */
async function upload(file) {
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

/** Give the field another value, and tell its form, also one that is not shown any more. */
function change(form, written) {
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
    const left = pathsIn(form.elements.attachments.value).filter((each) => each !== path);
    change(form, left.join('\n'));
    form.elements.body.focus();
  });
  shown.firstElementChild.append(button);
  return shown;
}

function labelled(name) {
  const shown = document.createElement('li');
  const file = document.createElement('span');
  const text = document.createElement('span');
  file.className = 'file';
  text.textContent = name;
  file.append(text);
  shown.append(file);
  return shown;
}
