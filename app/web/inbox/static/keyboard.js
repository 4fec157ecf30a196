// The keyboard: keys that elements name in `aria-keyshortcuts`, and moving in the list.
import { empty } from './controls.js';
import { $, $$, isSeen } from './page.js';

const SWITCH = 'inbox:shortcuts';
const ROWS = '#list a.row, #hits a.row';
const CHOICES = 'button, a, input:not([type=hidden])';

/** The place in the list that the keys are at, also while its row is being replaced. */
let place = -1;

function isOn() {
  try {
    return localStorage.getItem(SWITCH) !== 'off';
  } catch {
    return true;
  }
}

function isTyping({ target }) {
  return target.isContentEditable || target.matches?.('input:not([type=checkbox], [type=radio]), textarea, select');
}

const rows = () => $$(ROWS).filter(isSeen);

function move(by) {
  const links = rows();
  const focused = links.indexOf(document.activeElement?.closest('a'));
  const current = links.findIndex((link) => link.hasAttribute('aria-current'));
  const from = [focused, place, current].find((each) => each >= 0) ?? (by > 0 ? -1 : links.length);
  place = Math.max(0, Math.min(from + by, links.length - 1));
  links[place]?.focus();
  links[place]?.scrollIntoView({ block: 'nearest' });
}

function act(element) {
  if (element.matches('input, textarea, select')) {
    element.focus();
    if (element.type === 'search') element.select();
    else element.setSelectionRange?.(element.value.length, element.value.length); // what is typed is added to a draft
  } else {
    element.click();
    if (element.matches('details[open] > summary')) $(CHOICES, element.parentElement)?.focus();
  }
}

const OURS = {
  j: () => move(1),
  k: () => move(-1),
  o: () => document.activeElement?.matches(ROWS) && document.activeElement.click(),
};

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === 'Escape') {
    leave(event);
    return;
  }
  if (isTyping(event) || !isOn() || $('dialog[open]')) return;
  const wanted = $$(`[aria-keyshortcuts]`).filter((each) => each.getAttribute('aria-keyshortcuts') === event.key);
  const element = wanted.find(isSeen);
  const action = element ? () => act(element) : OURS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

/** Esc leaves the menu, the field, the sheet, and at last the thread; a dialog closes by itself. */
function leave({ target }) {
  if ($('dialog[open]')) return;
  const menu = target.closest?.('details[open]') ?? $('details[data-menu][open]');
  if (menu) {
    menu.open = false;
    $('summary', menu).focus();
  } else if (target.closest?.('#composer, [role=search]')) {
    target.blur();
    ($('#list [aria-current]') ?? rows()[0])?.focus();
  } else if ($('#details')?.hasChildNodes()) empty('details');
  else if ($('#person:target')) location.hash = 'thread';
  else $('[data-back]') && isSeen($('[data-back]')) && $('[data-back]').click();
}

document.addEventListener('keydown', press);
document.addEventListener('focusin', ({ target }) => {
  const at = rows().indexOf(target.closest('a'));
  if (at >= 0) place = at;
});
const shortcuts = $('#shortcuts');
if (shortcuts) {
  shortcuts.checked = isOn();
  shortcuts.addEventListener('change', () => localStorage.setItem(SWITCH, shortcuts.checked ? 'on' : 'off'));
}
