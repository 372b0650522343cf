"""Clients of a rehearsal: conversations that grow, in waves, with what goes wrong on a usual day."""

import http.client
import json
import math
import random
import socket
import threading
import time

BASE, ALIAS, ADAPTER = "meta-llama/Llama-3.1-8B-Instruct", "llama", "sql-adapter"
# A fourth name, for a table that has room for three.
RARE = "rare-adapter"
RARE_AFTER = 8
CLIENTS = 14
# Seconds from one crest to the next.
WAVE = 30
TIMEOUT = 20
WORDS = "pod queue token cache stream model prefix route answer weight batch layer head block page".split()


class Clients:
    """Threads that send requests to a gateway until they are stopped."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.start = time.monotonic()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.converse, args=(number,), daemon=True) for number in range(CLIENTS)]
        self.served = 0

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join(TIMEOUT)

    def converse(self, number):
        """One client: asks and waits a little, while the wave is high enough for it."""
        rng = random.Random(number)
        history = []
        while not self.stopped.is_set():
            wave = 0.6 + 0.4 * math.sin(2 * math.pi * (time.monotonic() - self.start) / WAVE)
            if number >= CLIENTS * wave:
                self.stopped.wait(0.5)
                continue
            if not history or len(history) > 9 or rng.random() < 0.1:
                history = [{"role": "system", "content": sentence(random.Random(number % 5), 250)}]
            history.append({"role": "user", "content": sentence(rng, rng.randint(5, 60))})
            try:
                answer = self.ask(rng, history)
                history.append({"role": "assistant", "content": answer or "…"})
            except (OSError, http.client.HTTPException, ValueError):
                # Pods fail on purpose.
                history = []
            self.stopped.wait(rng.random() * 0.15)

    def ask(self, rng, history):
        """Sends one request of some kind, and gives the answer's text if it has one."""
        chance = rng.random()
        if chance < 0.04:
            return self.mistake(rng)
        if chance < 0.07:
            return self.post("/tokenize", {"model": BASE, "prompt": sentence(rng, 20)})
        model = rng.choices((BASE, ALIAS, ADAPTER), (5, 3, 2))[0]
        if time.monotonic() - self.start > RARE_AFTER and rng.random() < 0.04:
            model = RARE
        tokens = rng.randint(8, 60)
        if chance < 0.15:
            return self.post("/v1/embeddings", {"model": model, "input": [sentence(rng, 30)]})
        if chance < 0.25:
            return self.post("/v1/completions", {"model": model, "prompt": history[-1]["content"], "max_tokens": tokens})
        body = {"model": model, "messages": history, "max_tokens": tokens}
        if chance < 0.45:
            return self.post("/v1/chat/completions", body)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        return self.post("/v1/chat/completions", body, leave=chance > 0.97)

    def mistake(self, rng):
        """What clients do wrong."""
        wrong = rng.choice((b'{"model": ', b'{"messages": []}', b'{"model": "nobody-serves-this", "messages": []}', b""))
        return self.post("/v1/chat/completions", wrong)

    def post(self, path, body, leave=False):
        """The response's text. One who leaves closes the connection after the first bytes."""
        connection = http.client.HTTPConnection(*self.gateway, timeout=TIMEOUT)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            if leave:
                response.read(64)
                # At once, and not when the kernel finds the time.
                connection.sock.shutdown(socket.SHUT_RDWR)
                return ""
            text = response.read().decode(errors="replace")
            self.served += response.status == 200
            return text[:200]
        finally:
            connection.close()


def sentence(rng, words):
    return " ".join(rng.choices(WORDS, k=words))
