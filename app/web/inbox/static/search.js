// The search: Enter opens the first result, and the field and the tabs follow what the list shows.
import { $, $$ } from './page.js';

/** The words of which the first result is to be opened once it is there. */
let awaited = null;

const field = () => $('form[role=search] [name=q]');
const words = () => field().value.trim();

/** Bring the field and the tabs in line with the list, once that has changed. */
export function followSearch() {
  const results = $('#hits');
  if (!field() || !$('#side')) return;
  if (!results && document.activeElement !== field()) field().value = '';
  light(results ? null : view());
  if (awaited !== null && results?.dataset.q === awaited) openFirst();
}

function view() {
  const source = $('#list')?.dataset.src ?? '';
  return new URL(source, location.href).searchParams.get('view') ?? 'open';
}

/** Mark the tab of a view as the current one; none while results are shown, which are of all. */
function light(current) {
  for (const link of $$('#side .tabs a[data-view]')) {
    if (link.dataset.view === current) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  $('#side .menu > summary')?.classList.toggle('chosen', $('#side .sheet [aria-current]') !== null);
}

function openFirst() {
  awaited = null;
  $('#hits a.row[href]')?.click();
}

document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.isComposing || event.target !== field() || !words()) return;
  awaited = words();
  if ($('#hits')?.dataset.q !== awaited) return; // the form asks for them now
  event.preventDefault();
  openFirst();
});
