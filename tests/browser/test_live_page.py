"""The live page in a browser, on gateways with traffic."""

import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import termios
import time
import urllib.request

from conftest import Process, binary, free_port, start_pod

ROWS = "[...document.querySelectorAll('.endpoint')]"
NAMES = f"{ROWS}.sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.querySelector('b').textContent)"


def number(page, column):
    return page.run(f"{ROWS}.map((row) => parseFloat(row.querySelector('.c-{column}').textContent))")


def test_figures_and_picks_appear_and_nothing_is_polled_or_fetched_elsewhere(page, gateway):
    assert sorted(page.run(NAMES)) == sorted(f"127.0.0.1:{port}" for port in gateway.ports)
    page.until(f"{ROWS}.some((row) => parseFloat(row.querySelector('.c-running').textContent) > 0)")
    page.until(f"{ROWS}.every((row) => row.querySelector('.c-share').textContent.endsWith('%'))")
    page.until(f"{ROWS}.some((row) => row.querySelector('.c-wait').textContent.endsWith('ms'))")
    page.until("document.querySelector('.pool .figures').innerText.includes('Picks/s') && pools[0].rate > 0")
    page.until("document.querySelectorAll('#pick-list > li').length > 3")
    page.run("document.querySelector('#pick-list summary').click()")
    why = page.until("document.querySelector('#pick-list .why')?.innerText")
    assert "TTFT" in why and "request " in why
    assert page.run("document.querySelectorAll('#pick-list .why tbody tr').length") == 3
    before = page.requests()
    page.until("at > %d" % (page.run("at") + 2000))
    assert page.requests() == before, "events come by themselves"
    assert {url.split("?")[0] for url in before if not url.startswith("data:")} == {gateway.page + path for path in ("", "live.css", "live.js", "api/events")}
    assert page.complaints() == []


def test_a_pod_that_is_killed_and_returns_shows_without_a_reload(page, gateway):
    page.run("window.marker = true")
    port = gateway.ports[0]
    badge = f"{ROWS}.find((row) => row.innerText.includes('127.0.0.1:{port}'))?.querySelector('.badge').dataset.state"
    gateway.pods[0].kill()
    try:
        page.until(f"{badge} === 'stale'")
        page.until("document.querySelector('.pool').innerText.includes('2 of 3 fresh')")
        page.run("document.querySelector('#state').value = '!fresh'; document.querySelector('#state').dispatchEvent(new Event('input'))")
        assert page.run(NAMES) == [f"127.0.0.1:{port}"]
        page.run(f"{ROWS}[0].click()")
        assert "cannot connect" in page.until("document.querySelector('#details').innerText")
    finally:
        gateway.pods[0] = start_pod(port)
    page.run("document.querySelector('#details').close(); document.querySelector('#state').value = ''; draw()")
    page.until(f"{badge} === 'fresh'")
    assert page.run("window.marker") and page.complaints() == []


def test_rows_are_filtered_and_sorted(page, gateway):
    low, *_, high = sorted(f"127.0.0.1:{port}" for port in gateway.ports)
    assert page.run(NAMES)[0] == low
    page.run("document.querySelector('[data-key=name] button').click()")
    assert page.run(NAMES)[0] == high
    assert page.run("document.querySelector('[aria-sort]').ariaSort") == "descending"
    page.run("document.querySelector('[data-key=running] button').click()")
    figures = page.run(f"[{NAMES}, endpoints.map((it) => [it.address, it.running])]")
    running = dict(map(tuple, figures[1]))
    assert [running[name] for name in figures[0]] == sorted(running.values(), reverse=True)
    page.press("/")
    assert page.run("document.activeElement.id") == "filter"
    page.write(high.rsplit(":", 1)[1])
    page.until(f"{ROWS}.length === 1")
    assert page.run(NAMES) == [high] and page.run("document.querySelector('#count').textContent") == "1 of 3"
    page.write("nothing")
    page.until("!document.querySelector('#nothing').hidden")
    page.press("Escape")
    page.until(f"{ROWS}.length === 3")


def test_everything_is_within_reach_of_the_keyboard(page):
    page.run("document.querySelector('.endpoint').focus()")
    first, second, third = page.run(NAMES)
    focused = "document.activeElement.querySelector?.('b')?.textContent"
    page.press("ArrowDown")
    assert page.run(focused) == second
    page.press("End")
    assert page.run(focused) == third
    page.press("ArrowDown", "Home")
    assert page.run(focused) == first
    # The row keeps the focus while figures change.
    page.until("at > %d" % (page.run("at") + 1500))
    assert page.run(focused) == first
    page.press("Enter")
    page.until("document.querySelector('#details').open")
    assert page.run("document.querySelector('#details-title').textContent") == first
    page.press("Escape")
    page.until("!document.querySelector('#details').open")
    page.press("p")
    stopped = page.run("at")
    time.sleep(2.5)
    assert (page.run("at"), page.run("document.querySelector('#status').textContent")) == (stopped, "paused")
    page.press("p")
    page.until(f"at > {stopped}")


# Contrast of each text with what is behind it, as WCAG has it; text of 3:1 is large.
CONTRAST = """
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
  const behind = (element) => { for (let it = element; it; it = it.parentElement) { const color = rgb(getComputedStyle(it).backgroundColor); if (color[3] === 255) return color; } return [255, 255, 255]; };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.getClientRects().length === 0 || element.closest("[disabled]")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)} ${element.textContent.slice(0, 20)}`);
  }
  return poor;
})()
"""


def test_light_and_dark_follow_the_system_and_a_button_and_can_be_read(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.until("document.querySelectorAll('#pick-list > li').length > 0")
    page.prefer(prefers_color_scheme="light")
    light = page.run(ground)
    assert page.run(CONTRAST) == []
    page.prefer(prefers_color_scheme="dark")
    dark = page.run(ground)
    assert page.run(CONTRAST) == [] and sum(map(int, re.findall(r"\d+", dark)[:3])) < 120 < sum(map(int, re.findall(r"\d+", light)[:3]))
    page.press("d")
    assert page.run(ground) == light
    page.press("d")
    page.prefer(prefers_color_scheme="light")
    assert page.run(ground) == dark
    page.press("d")
    assert page.run(ground) == light


def test_a_narrow_screen_shows_all_that_matters_and_scrolls_one_way_only(page):
    page.resize(360, 800)
    page.until(f"{ROWS}.length === 3 && {ROWS}[0].offsetWidth < 360")
    assert page.run("document.scrollingElement.scrollWidth") <= 360
    assert page.run("document.querySelector('#grid').scrollWidth <= document.querySelector('#grid').clientWidth")
    for part in ("#sort", "#filter", ".endpoint .c-name", ".endpoint .c-state", ".endpoint .c-kv", ".endpoint .c-flight", "#picks"):
        assert page.run(f"document.querySelector('{part}').getBoundingClientRect().width") > 10, part
    page.run("document.querySelector('#sort').value = 'kv'; document.querySelector('#sort').dispatchEvent(new Event('input'))")
    assert page.run("sort.key") == "kv"


def test_roles_and_names_are_there_for_whoever_does_not_see_the_page(page):
    tree = page.tree()
    roles = {role for role, _ in tree}
    assert {"banner", "main", "grid", "row", "columnheader", "gridcell", "status", "searchbox", "heading", "list"} <= roles, roles
    for role in ("button", "combobox", "searchbox", "grid", "region", "columnheader"):
        assert all(name for found, name in tree if found == role), role
    assert ("status", "") in tree or any(role == "status" for role, _ in tree)
    rows = page.run("[+document.querySelector('#grid').ariaRowCount, document.querySelectorAll('[role=row]').length]")
    assert rows == [4, 4]


def test_what_clients_write_is_shown_as_text_and_the_policy_forbids_the_rest(page, gateway):
    with urllib.request.urlopen(gateway.page, timeout=10) as response:
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
    model = "<img src=x onerror=window.hacked=1>"
    assert gateway.ask(model=model) == 404
    page.until(f"document.querySelector('#pick-list').innerText.includes({json.dumps(model)})")
    assert page.run("document.querySelector('#pick-list img') === null && window.hacked === undefined")
    blocked = page.run("fetch('http://127.0.0.1:1/').then(() => 'sent', (error) => error.name)")
    assert blocked == "TypeError"
    page.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}))")
    assert page.run("window.hacked === undefined")
    assert any("Content Security Policy" in str(complaint) for complaint in page.complaints())


def test_the_sidecar_in_envoy_shows_the_same(browser, native_gateway):
    page = browser.page(native_gateway.page)
    page.until("document.querySelectorAll('.endpoint .badge[data-state=fresh]').length === 2")
    page.until("document.querySelectorAll('#pick-list > li').length > 3")
    page.until("endpoints.some((it) => it.share > 0)")
    assert page.complaints() == []
    page.close()


def test_a_thousand_endpoints_stay_fluid(browser):
    port = free_port()
    pod = start_pod(port, host="0.0.0.0")
    # All of 127.0.0.0/8 is this machine.
    pool = ",".join(f"ns/pod-{index}@127.0.{index // 250}.{index % 250 + 1}:{port}" for index in range(1000))
    sidecar = Process(
        [binary("metrics-sidecar"), "--listen", "127.0.0.1:0", "--pool", f"large=static:{pool}", "--envoy-admin", "http://127.0.0.1:1",
         "--poll-interval", "10s", "--staleness", "60s", "--models-interval", "600s"],
        "listening on",
    )
    try:
        page = browser.page(re.search(r"listening on (\S+)", sidecar.said).group(1))
        page.until("endpoints.length === 1000 && endpoints.filter((it) => it.state === 'fresh').length > 900", seconds=60)
        assert page.run("document.querySelectorAll('.endpoint').length") < 60, "only those in sight are drawn"
        # In time of the processor: other programs of this machine do not count.
        page.call("Performance.enable", timeDomain="threadTicks")
        before = page.work_seconds()
        frames = page.run("""
            new Promise((done) => {
              let frame = 0;
              const step = () => {
                document.querySelector('#grid').scrollTop = frame * 450;
                draw();
                if (++frame === 60) done(frame);
                else requestAnimationFrame(step);
              };
              requestAnimationFrame(step);
            })
        """)
        scrolling = (page.work_seconds() - before) * 1000 / frames
        before, since = page.work_seconds(), time.monotonic()
        time.sleep(3)
        idle = (page.work_seconds() - before) / (time.monotonic() - since)
        size = page.run("fetch('api/state').then((answer) => answer.text()).then((text) => text.length)")
        print(f"a thousand endpoints: {scrolling:.1f} ms a frame that scrolls to other rows, {idle:.1%} of a core while nobody scrolls; a state of {size} bytes")
        # Drawing all of them would take several hundred.
        assert scrolling < 40, "some 60 frames a second, on a machine that does other things too"
        assert idle < 0.1
        page.run("document.querySelector('#grid').scrollTop = 1e6")
        page.until(f"{NAMES}.at(-1) === 'pod-999'")
        page.run("document.querySelector('#filter').value = 'pod-42'; document.querySelector('#filter').dispatchEvent(new Event('input'))")
        page.until("shown.length === 11")
        page.run("document.querySelector('.endpoint').focus()")
        page.press("End")
        assert page.run("document.activeElement.querySelector('b').textContent") == "pod-429"
        # Envoy is away, and that is said.
        assert "Envoy's page cannot be read" in page.run("document.querySelector('#problem').innerText")
        page.close()
    finally:
        sidecar.end()
        pod.kill()


def test_a_token_is_asked_for_and_kept_in_the_tab(browser, tmp_path):
    tokens, port = tmp_path / "tokens", free_port()
    tokens.write_text("good-token\n")
    pod = start_pod(port)
    sidecar = Process(
        [binary("metrics-sidecar"), "--listen", "127.0.0.1:0", "--pool", f"p=static:127.0.0.1:{port}", "--envoy-admin", "http://127.0.0.1:1",
         "--metrics-endpoint-token-file", str(tokens)],
        "listening on",
    )
    address = re.search(r"listening on (\S+)", sidecar.said).group(1).rstrip("/") + "/"
    asked = "document.querySelector('#sign-in')?.hidden === false && document.querySelector('main').hidden"
    shown = "document.querySelector('#sign-in')?.hidden && document.querySelectorAll('.endpoint .badge[data-state=fresh]').length === 1"
    kept = "sessionStorage.getItem('inpick-token')"
    refusal = "document.querySelector('#refusal').innerText"

    def enter(page, text):
        page.until("document.activeElement.id === 'token'")
        page.write(text)
        page.press("Enter")

    try:
        page = browser.page(address)
        page.until(asked)
        assert page.run("[document.querySelector('#token').type, document.querySelector('#insecure').hidden]") == ["password", True]
        assert (page.run("endpoints.length"), page.run(refusal), page.run("document.querySelector('#status').textContent")) == (0, "", "a token is wanted")
        assert ("textbox", "Bearer token") in page.tree()
        page.press("p")  # of the page behind the form
        assert page.run("paused") is False
        page.run("document.querySelector('#token').value = ''")
        enter(page, "no token")
        page.until(f"{refusal}.includes('one word')")
        page.run("document.querySelector('#token').value = ''")
        enter(page, "bad-token")
        page.until(f"{refusal}.includes(\"nobody's token\")")
        assert page.run(asked) and page.run(kept) is None
        # As it stands in a command that was copied.
        enter(page, " Authorization: Bearer good-token ")
        page.until(shown)
        assert page.run(kept) == "good-token" and page.run("document.querySelector('#token').value") == ""
        page.until("document.querySelector('#status').textContent === 'live'")

        # It is there after a reload, in no other tab, and in no address.
        page.call("Page.reload")
        page.until(f"performance.getEntriesByType('navigation')[0].type === 'reload' && {shown}")
        other = browser.page(address)
        other.until(asked)
        other.close()
        assert not any("good-token" in url for url in page.requests())

        page.run("document.querySelector('#forget').click()")
        page.until(f"document.readyState === 'complete' && {asked}")
        assert page.run(kept) is None and page.run("endpoints.length") == 0 and page.run(refusal) == ""

        # Events end after a while, and the page asks for more with the token.
        enter(page, "good-token")
        page.until(shown)
        page.run("""
            window.asked = [];
            const real = window.fetch;
            window.fetch = (url, options) => {
              asked.push(options.headers.authorization);
              return asked.length === 1 ? Promise.resolve(new Response("event: other\\ndata: 1\\n\\n")) : real(url, options);
            };
            void connect();
        """)
        page.until("asked.length === 2")
        assert page.run("asked") == ["Bearer good-token"] * 2 and page.run("lost") is False

        # One that is taken away shows nothing any more then.
        tokens.write_text("another\n")
        sidecar.end()
        sidecar = Process([*sidecar.child.args[:2], re.search(r"//([^/]+)/", address).group(1), *sidecar.child.args[3:]], "listening on")
        page.until(asked)
        assert "nobody's token" in page.run(refusal) and page.run(kept) is None
        complaints = [complaint.get("text", "") for complaint in page.complaints()]
        assert all("401" in text or "ERR_" in text for text in complaints), complaints
        page.close()
    finally:
        sidecar.end()
        pod.kill()


def test_top_shows_the_same_in_a_terminal(gateway):
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(binary("inpick"), ["inpick", "top", gateway.page.rstrip("/"), "--interval", "0.3"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    said = b""

    def until(wanted, seconds=30):
        nonlocal said
        end = time.monotonic() + seconds
        while wanted not in said and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    said += os.read(terminal, 65536)
                except OSError:
                    break
        assert wanted in said, said.decode(errors="replace")[-2000:]

    until(b"\x1b[?1049h")
    until(f"127.0.0.1:{gateway.ports[0]}".encode())
    said = b""
    os.write(terminal, b"ss")
    until("WAITING↓".encode())
    os.write(terminal, b"/nobody\r")
    until(b"0 endpoints")
    os.write(terminal, b"q")
    until(b"\x1b[?1049l")
    assert os.waitpid(child, 0)[1] == 0
    os.close(terminal)


def test_events_end_when_too_many_watch(gateway):
    host, port = re.search(r"http://(.*):(\d+)/", gateway.page).groups()
    sockets, status = [], 200
    try:
        while status == 200 and len(sockets) < 100:
            connection = socket.create_connection((host, int(port)), timeout=10)
            sockets.append(connection)
            connection.sendall(b"GET /api/events HTTP/1.1\r\nhost: x\r\n\r\n")
            status = int(connection.recv(12).split()[1])
        assert status == 503 and len(sockets) > 10
    finally:
        for connection in sockets:
            connection.close()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /api/events HTTP/1.1\r\nhost: x\r\n\r\n")
            if b" 200 " in connection.recv(15):
                return
        time.sleep(0.2)
    raise AssertionError("places do not become free")
