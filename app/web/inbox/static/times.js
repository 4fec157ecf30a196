// Times in the reader's language and time zone. The server writes them in UTC.
import { $$, word } from './page.js';

const PAGE = document.documentElement.lang;
// Of English, say, there are several ways to write a time.
const LANGUAGE = navigator.languages.find((each) => each.split('-')[0] === PAGE) ?? (PAGE || undefined);
const FORMATS = {
  time: new Intl.DateTimeFormat(LANGUAGE, { timeStyle: 'short' }),
  date: new Intl.DateTimeFormat(LANGUAGE, { dateStyle: 'medium', timeStyle: 'short' }),
  day: new Intl.DateTimeFormat(LANGUAGE, { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' }),
};
const AGE = new Intl.RelativeTimeFormat(LANGUAGE, { numeric: 'auto', style: 'short' });
const UNITS = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];
const DAYS_OF_AGES = 7;

function age(time) {
  const seconds = (time - Date.now()) / 1000;
  if (Math.abs(seconds) < 60) return word('just_now');
  if (Math.abs(seconds) > DAYS_OF_AGES * 86_400) return time.toLocaleDateString(LANGUAGE);
  const [unit, size] = UNITS.find(([, each]) => Math.abs(seconds) >= each);
  return AGE.format(Math.trunc(seconds / size), unit);
}

function write(element) {
  const time = new Date(element.dateTime);
  if (Number.isNaN(time.getTime())) return;
  const { format = 'date' } = element.dataset;
  const text = format === 'age' ? age(time) : (FORMATS[format] ?? FORMATS.date).format(time);
  if (element.textContent !== text) element.textContent = text;
  element.title = FORMATS.date.format(time);
}

/** Write the times of an element as they are here. */
export function localise(within) {
  if (within.matches?.('time')) write(within);
  $$('time[datetime]', within).forEach(write);
}

/** Put the messages under the days of this time zone. */
export function groupByDay(messages) {
  $$(':scope > .day', messages).forEach((day) => day.remove());
  let last = '';
  for (const item of $$(':scope > [data-at]', messages)) {
    const day = FORMATS.day.format(new Date(item.dataset.at));
    if (day !== last) item.before(heading(day));
    last = day;
  }
}

function heading(day) {
  const item = document.createElement('li');
  item.className = 'day';
  item.append(document.createElement('h3'));
  item.firstChild.textContent = day;
  return item;
}

setInterval(() => $$('time[data-format="age"]').forEach(write), 30_000);
