"""A headless Chromium, told what to do over the DevTools protocol."""

import base64
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import websocket

START_SECONDS = 60
CALL_SECONDS = 30


class Chromium:
    """One browser process. `page` opens a tab."""

    def __init__(self):
        path = Path(os.environ["BROWSER_PATH"])
        self.profile = tempfile.TemporaryDirectory(prefix="inpick-browser-", ignore_cleanup_errors=True)
        # Unpacked beside the libraries that this machine lacks.
        libraries = sorted({str(library.parent) for library in path.parents[2].rglob("*.so*")}) if ".tools" in path.parts else []
        arguments = ["--no-sandbox", "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars", "--disable-gpu",
                     "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", f"--user-data-dir={self.profile.name}"]
        if "headless" not in path.name:
            arguments.append("--headless=new")
        self.process = subprocess.Popen(
            [path, *arguments, "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])},
        )
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                break
        else:
            raise RuntimeError(f"the browser did not start:\n{said}")
        self.socket = websocket.create_connection(found.group(1), timeout=CALL_SECONDS, suppress_origin=True)
        self.number = 0
        self.events = []

    def call(self, method, session=None, **parameters):
        """What the browser returns; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def page(self, url, **size):
        return Page(self, url, **size)

    def close(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError, websocket.WebSocketException):
            self.process.kill()
        self.socket.close()
        self.process.wait(START_SECONDS)
        self.process.stderr.close()
        self.profile.cleanup()


class Page:
    """One tab."""

    def __init__(self, browser, url, width=1440, height=900):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method, **parameters):
        return self.browser.call(method, session=self.session, **parameters)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)

    def prefer(self, **features):
        """Media features such as prefers_color_scheme="dark"."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def run(self, script):
        """Value of an expression, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, script, seconds=20):
        """Waits until an expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while True:
            value = self.run(script)
            if value or time.monotonic() > end:
                assert value, f"{script} is still {value!r}; the page says\n{self.run('document.body.innerText')[:3000]}"
                return value
            time.sleep(0.05)

    def press(self, *keys):
        codes = {"Enter": 13, "Escape": 27, "Home": 36, "End": 35, "ArrowUp": 38, "ArrowDown": 40, "PageDown": 34, "Tab": 9}
        for key in keys:
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            code = codes.get(key, ord(key[0].upper()))
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text):
        self.call("Input.insertText", text=text)

    def complaints(self):
        """What the page's console shows as an error or a warning, exceptions and breaches of its policy among it."""
        self.run("0")
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(parameters["exceptionDetails"])
            if event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                found.append(parameters["args"])
            if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"])
        return found

    def requests(self):
        """The URL of each request that the page made."""
        self.run("0")
        ours = (event for event in self.browser.events if event.get("sessionId") == self.session)
        return [event["params"]["request"]["url"] for event in ours if event["method"] == "Network.requestWillBeSent"]

    def work_seconds(self):
        """Seconds of scripts, styles and layout so far, once `Performance` is enabled; painting is the browser's."""
        metrics = {metric["name"]: metric["value"] for metric in self.call("Performance.getMetrics")["metrics"]}
        return sum(metrics[f"{part}Duration"] for part in ("Script", "RecalcStyle", "Layout"))

    def tree(self):
        """Roles and names of the accessibility tree."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored") and "role" in node]

    def picture(self, path, **clip):
        data = self.call("Page.captureScreenshot", format="png", **({"clip": {"scale": 1, **clip}} if clip else {}))["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        self.call("Page.close")
