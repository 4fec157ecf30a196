// Uses the generated client as a stranger would, and prints what came of it as JSON.
import { type EventView, getMessage, listEvents, listMessages, sendEmail, sendSms, sendWhatsapp } from './messaging';
import { client } from './messaging/client.gen';

declare const process: { argv: string[] };

const nextCursor = (response: Response): string | undefined =>
  response.headers.get('link')?.match(/[?&]cursor=([^&>]+)[^>]*>; rel="next"/)?.[1];

/** The body of an accepted message: the type of an event tells what its data holds. */
const acceptedBody = (event: EventView): string[] =>
  event.type === 'message.accepted' && event.data.message !== null ? [event.data.message.body] : [];

async function main(baseUrl: string, auth: string): Promise<void> {
  client.setConfig({ baseUrl, auth });
  const from = '+12016661234';
  const to = '+18045551234';
  const sent = [];
  for (const body of ['one', 'two']) {
    const headers = { Prefer: 'wait=20', 'Idempotency-Key': `typescript-${body}` };
    sent.push(await sendSms({ body: { from, to, type: 'sms', body }, headers, throwOnError: true }));
  }
  const email = { from: 'user@example.com', to: 'contact@example.com', body: 'three', attachments: null };
  await sendEmail({ body: email, throwOnError: true });
  await sendWhatsapp({ body: { from, to, template: { name: 'hello', language: 'en_US' } }, throwOnError: true });
  const found = await getMessage({ path: { message_id: sent[0].data.message_id }, throwOnError: true });
  const again = await getMessage({ path: { message_id: found.data.id }, throwOnError: true });
  const refused = await sendSms({ body: { from, to: '', type: 'sms', body: 'Hello!' } });
  const pages: string[][] = [];
  let cursor: string | undefined;
  do {
    const page = await listMessages({ query: { limit: 3, cursor }, throwOnError: true });
    pages.push(page.data.map((message) => message.body));
    cursor = nextCursor(page.response);
  } while (cursor !== undefined);
  const { data } = await listEvents({ query: { types: ['message.accepted', 'contact.created'] }, throwOnError: true });
  console.log(
    JSON.stringify({
      statuses: sent.map(({ data }) => [data.status, data.message_status]),
      location: sent[0].response.headers.get('location') === `/api/messages/${found.data.id}`,
      same: found.data.id === again.data.id,
      refused: [refused.response?.status, refused.error?.errors?.map((each) => each.location)],
      pages,
      events: [...new Set(data.events.map((event) => event.type))].sort(),
      accepted: data.events.flatMap(acceptedBody),
    }),
  );
}

void main(process.argv[2], process.argv[3]);
