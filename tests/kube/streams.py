"""Clients that read streams of chat completions through a Service without a pause, and count what becomes of each."""

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

import objects
from process import PATIENCE


class Clients:
    """Threads that run `_run`, told their number, until they are left, which sets `over`."""

    def __init__(self, number):
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in range(number)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)


class Streams(Clients):
    """So many clients at once; every other one keeps its connection for as long as it is let."""

    def __init__(self, url, clients=6, tokens=20, model=objects.MODEL):
        super().__init__(clients)
        self.host = urlsplit(url).netloc
        self.tokens, self.model = tokens, model
        self.done, self.failed, self.pods = 0, [], {}
        self.lock = threading.Lock()

    def _run(self, number):
        keeps, connection = number % 2 == 0, None
        while not self.over.is_set():
            connection = connection or http.client.HTTPConnection(self.host, timeout=PATIENCE)
            try:
                pod, closes = self._stream(connection, keeps)
                with self.lock:
                    self.done += 1
                    self.pods[pod] = self.pods.get(pod, 0) + 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                with self.lock:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} {error!r}")
                closes = True
            if closes or not keeps:
                connection.close()
                connection = None

    def _stream(self, connection, keeps):
        body = {"model": self.model, "messages": [{"role": "user", "content": "count"}], "max_tokens": self.tokens, "stream": True}
        headers = {"content-type": "application/json", **({} if keeps else {"connection": "close"})}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, f"{answer.status} {text[:300]}"
        assert text.rstrip().endswith("data: [DONE]"), f"a stream without its end: {text[-200:]}"
        return answer.headers["x-inference-pod"], answer.will_close
