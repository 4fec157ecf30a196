// Unsent texts and sends without an answer, kept in this browser until the server has the message.
import { account } from './page.js';

const LONGEST = 30 * 86_400_000; // milliseconds
const PREFIX = `inbox:${account}:`;

/** This browser's storage, or memory where it is forbidden or full. */
const memory = new Map();

const kept = {
  read(name) {
    if (memory.has(name)) return memory.get(name);
    try {
      return JSON.parse(localStorage.getItem(PREFIX + name));
    } catch {
      return null;
    }
  },
  write(name, value) {
    memory.delete(name);
    try {
      if (value === null) localStorage.removeItem(PREFIX + name);
      else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    } catch {
      memory.set(name, value);
    }
  },
};

/** A new idempotency key. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The draft of a conversation: {key, fields, at}, or null. */
export const draftOf = (conversation) => kept.read(`draft:${conversation}`);

/** Keep a draft; one without a text or a file is forgotten. */
export function keepDraft(conversation, draft) {
  const { body, subject, attachments } = draft?.fields ?? {};
  kept.write(`draft:${conversation}`, body || subject || attachments ? { ...draft, at: Date.now() } : null);
}

/** The sends of a conversation that had no answer yet: a list of {key, conversation, url, fields, at}. */
export const sendsOf = (conversation) => kept.read(`sends:${conversation}`) ?? [];

/** Those of all conversations. */
export function everySend() {
  const names = new Set(memory.keys());
  try {
    for (const name of Object.keys(localStorage)) if (name.startsWith(PREFIX)) names.add(name.slice(PREFIX.length));
  } catch {
    // no storage but memory
  }
  return [...names].filter((name) => name.startsWith('sends:')).flatMap((name) => kept.read(name) ?? []);
}

export function keepSend(send) {
  write(send.conversation, [...sendsOf(send.conversation).filter(({ key }) => key !== send.key), send]);
}

export function forgetSend({ conversation, key }) {
  write(conversation, sendsOf(conversation).filter((each) => each.key !== key));
}

function write(conversation, sends) {
  kept.write(`sends:${conversation}`, sends.length ? sends : null);
}

/** Forget drafts and sends that were not touched for a month. */
export function forgetOld() {
  try {
    for (const name of Object.keys(localStorage).filter((each) => /^inbox:.*:(draft|sends):/.test(each))) {
      const value = JSON.parse(localStorage.getItem(name));
      const at = Array.isArray(value) ? Math.max(...value.map((each) => each.at)) : value?.at;
      if (at && at < Date.now() - LONGEST) localStorage.removeItem(name);
    }
  } catch {
    // no storage, nothing to forget
  }
}
