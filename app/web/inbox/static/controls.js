// Buttons that open, close and empty parts of the page.
import { $$ } from './page.js';

const MORNING = 8; // o'clock

/** The element that has filled a part of the page, by the id of that part. */
const openers = new Map();

function toggle(button) {
  const part = document.getElementById(button.dataset.toggles);
  const isOpen = part.classList.toggle('open');
  for (const each of $$(`[data-toggles="${part.id}"]`)) each.setAttribute('aria-expanded', String(isOpen));
}

/** Empty a part of the page, and go back to what had filled it. */
export function empty(id) {
  document.getElementById(id)?.replaceChildren();
  openers.get(id)?.focus();
}

/** The next morning, or that of next Monday, where the reader is. */
function morning(preset) {
  const time = new Date();
  time.setDate(time.getDate() + (preset === 'week' ? 7 - ((time.getDay() + 6) % 7) : 1));
  time.setHours(MORNING, 0, 0, 0);
  return time;
}

/** Name the time of a preset before its form is sent: the server knows no time zone. */
function nameTime({ target }) {
  const button = target.closest('button[name=until]');
  if (!button) return;
  button.dataset.preset ??= button.value;
  const { preset } = button.dataset;
  if (preset === 'tomorrow' || preset === 'week') button.value = morning(preset).toISOString();
}

document.addEventListener('click', nameTime, { capture: true });
document.addEventListener('click', ({ target }) => {
  const { opens, toggles, empties } = target.closest('[data-opens], [data-toggles], [data-empties]')?.dataset ?? {};
  if (opens) document.getElementById(opens)?.showModal();
  if (toggles) toggle(target.closest('[data-toggles]'));
  if (empties) empty(empties);
  if (target.closest('[data-closes]')) target.closest('dialog')?.close();
  for (const menu of $$('details[data-menu][open]')) if (!menu.contains(target)) menu.open = false;
});

document.addEventListener('htmx:beforeRequest', ({ detail: { elt, target } }) => {
  if (target?.id && !target.contains(elt)) openers.set(target.id, elt);
});
