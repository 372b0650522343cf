"""A model server whose engine sleeps, as vLLM's page says it, and which would answer all the same: the sidecar counts it for none that can
be picked, and Envoy knows it."""

import http.server
import json
import threading

import objects

PAGE = f"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{objects.MODEL}"}} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="{objects.MODEL}"}} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="{objects.MODEL}"}} 0.0
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{{engine="0",model_name="{objects.MODEL}",sleep_state="awake"}} 0.0
vllm:engine_sleep_state{{engine="0",model_name="{objects.MODEL}",sleep_state="weights_offloaded"}} 1.0
"""


class SleepingEngine:
    """Serves until it is stopped; `requests` are those that it answered."""

    def __init__(self, address, port):
        engine = self
        self.requests = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path == "/metrics":
                    self.answer("text/plain; version=0.0.4", PAGE)
                else:
                    self.answer("application/json", json.dumps({"object": "list", "data": [{"id": objects.MODEL, "object": "model"}]}))

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                engine.requests += 1
                usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
                choice = {"index": 0, "message": {"role": "assistant", "content": "hm"}, "finish_reason": "stop"}
                self.answer("application/json", json.dumps(
                    {"id": "1", "object": "chat.completion", "model": objects.MODEL, "choices": [choice], "usage": usage}
                ))

            def answer(self, kind, text):
                body = text.encode()
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address, port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
