// One stream of events for all tabs of an account: browsers allow six connections to a server over HTTP/1.1.
import { Stream } from './stream.js';

const ports = new Set();
let stream = null;

function tellAll(said) {
  ports.forEach((port) => port.postMessage(said));
}

function listen(port, url) {
  ports.add(port);
  port.postMessage({ kind: 'here' });
  stream ??= new Stream(url, tellAll);
  // The page was rendered some time ago, so for a tab that joins now the stream is as good as new.
  if (stream.state === 'open' || stream.state === 'back') port.postMessage({ kind: 'state', state: 'open' });
  else stream.start();
}

function leave(port) {
  ports.delete(port);
  if (ports.size > 0) return;
  stream?.stop();
  stream = null;
}

self.addEventListener('connect', ({ ports: [port] }) => {
  port.addEventListener('message', ({ data }) => {
    if (data.say === 'listen') listen(port, data.url);
    else if (data.say === 'retry') stream?.start();
    else leave(port);
  });
  port.start();
});
