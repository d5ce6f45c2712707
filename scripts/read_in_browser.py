"""Reads the course as a reader does: each notebook opened in JupyterLab in a real browser, run, and looked at.

    python scripts/read_in_browser.py                          all notebooks
    python scripts/read_in_browser.py nbs/05_schedules.ipynb   only those
    python scripts/read_in_browser.py --python ../reader/bin/python --shots shots

It needs Debian's package `chromium` and, from PyPI, `playwright`, which then fetches no browser of its own. JupyterLab
and the kernels run in the environment of `--python`, which holds the package with its extra `course`, nothing else.
All happens in a copy of the checkout. Any of these faults is printed below its notebook's row and makes it exit with 1:
an output that is an error, a picture without alt text, a formula that MathJax could not set, an error on the browser's
console, a slider that has no name, or that was moved and changed no picture, or that does not say that another cell is
running, a notebook that JupyterLab stores with other content after it was only opened.
"""
import argparse
import contextlib
import difflib
import json
import math
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from playwright.sync_api import Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {  # beginning of the address that an error on the browser's console comes from: why it is no fault
    "https://": "a badge from elsewhere; without a network its alt text stands there (JupyterLab's own files are http)",
}
WINDOW, TALL = {"width": 1300, "height": 900}, {"width": 1300, "height": 4000}  # pixels; to read, and for screenshots
MINUTES = 15  # for all cells of one notebook
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}  # questions cover pictures

# JavaScript. `jupyterapp` is there because of the option LabApp.expose_app_in_browser.
NOTEBOOK = "const panel = jupyterapp.shell.currentWidget, notebook = panel.content, cells = notebook.widgets;"
IS_READY = f"""() => {{ {NOTEBOOK} const kernel = panel.sessionContext.session?.kernel;
    return cells.length && cells.every(cell => cell.isAttached) && kernel?.status == 'idle'
        && panel.model.getMetadata('language_info')?.version }}"""
EXECUTE = """([command, args]) => { window.finished = false;
    jupyterapp.commands.execute(command, args).finally(() => window.finished = true) }"""
ERRORS = f"""() => {{ {NOTEBOOK} return cells.flatMap((cell, number) => (cell.model.outputs?.toJSON() ?? [])
    .filter(output => output.output_type == 'error')
    .map(output => `cell ${{number}}: ${{output.ename}}: ${{output.evalue}}`)) }}"""
SPEECHLESS = f"""() => {{ {NOTEBOOK} return cells.flatMap((cell, number) =>
    [...cell.node.querySelectorAll('.jp-OutputArea-output img')].filter(image => !image.alt)
    .map(image => `cell ${{number}}: a picture without alt text`)) }}"""
# MathJax shows what it cannot read in a box, an unknown command in red, and leaves alone what has no end.
FORMULAS = f"""() => {{ {NOTEBOOK} const found = new Set();
    for (const part of notebook.node.querySelectorAll('mjx-merror, mjx-mtext[style*="red"]'))
        found.add('formula not set: ' + (part.title || part.closest('mjx-container').innerText));
    for (const text of notebook.node.querySelectorAll('.jp-RenderedMarkdown')) {{
        const copy = text.cloneNode(true);
        copy.querySelectorAll('code, mjx-container').forEach(part => part.remove());
        const left = copy.textContent.match(/(\\$\\$|\\\\[a-zA-Z])[^]{{0,100}}/);
        if (left) found.add('formula left as text: ' + left[0]) }}
    return [...found] }}"""
# Watches the pictures in a slider's cell. `answer`: milliseconds from the key to the first other picture, or null.
WATCH = """handle => {
    const output = handle.closest('.jp-Cell').querySelector('.jp-Cell-outputWrapper'), end = performance.now() + 30000;
    const pixels = image => { const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext('2d').drawImage(image, 0, 0); return canvas.toDataURL() };
    const images = () => [...output.querySelectorAll('img')].filter(image => image.complete && image.naturalWidth);
    const drawings = () => [...output.querySelectorAll('.jp-OutputArea-output svg')].map(svg => svg.outerHTML);
    const seen = () => [...images().map(pixels), ...drawings()].join();
    const hint = () => [...images().map(image => image.src), ...drawings()].join();  // cheap; may change for nothing
    const before = seen(); let last = hint(), start;
    handle.addEventListener('keydown', () => { start = performance.now() }, {capture: true, once: true});
    window.answer = (async () => {
        while (performance.now() < end) {
            await new Promise(go => setTimeout(go, 4));
            const now = performance.now();
            if (hint() != last && (last = hint()) && seen() != before) return now - start }
        return null })() }"""
NAME = "handle => handle.closest('.widget-slider').querySelector('.widget-label').textContent"
# What a screen reader makes of a handle, beside what is seen: none where both are alike.
UNSPOKEN = """handle => {
    const slider = handle.closest('.widget-slider'), seen = name => slider.querySelector('.widget-' + name).textContent;
    const spoken = [handle.ariaLabel, handle.ariaValueText], shown = [seen('label'), seen('readout')];
    return spoken.join() == shown.join() ? null : `slider ${shown} is spoken as ${spoken}` }"""
# JupyterLab lets a slider answer beside a cell that runs, but not beside one call that keeps all of Python busy.
HOLD_PYTHON = f"""() => {{ {NOTEBOOK}
    panel.sessionContext.session.kernel.requestExecute({{code: 'sum(range(2 * 10**8))'}}) }}"""
SCROLL = f"""piece => {{ {NOTEBOOK} const window = notebook.outerNode;
    window.scrollTo(0, piece * (window.clientHeight - 50));
    return cells.at(-1).node.getBoundingClientRect().bottom < window.getBoundingClientRect().bottom }}"""


def copy_checkout(target: Path) -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


@contextlib.contextmanager
def jupyterlab(python: str, folder: Path):
    "The address of a JupyterLab on `folder`/copy, with settings of its own instead of those of whoever starts it."
    settings = folder / "JUPYTERLAB_SETTINGS_DIR/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    own = "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR"
    environment = {**os.environ, **{name: str(folder / name) for name in own}, "PYTHONPATH": str(folder / "copy")}
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    token, log = secrets.token_hex(), folder / "lab.log"
    command = [os.path.abspath(python), "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--LabApp.expose_app_in_browser=True",
               f"--ServerApp.root_dir={folder / 'copy'}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--IdentityProvider.token={token}"]
    lab = subprocess.Popen(command, env=environment, cwd=folder / "copy",  # python -m looks there first for the package
                           stdin=subprocess.DEVNULL, stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/api", timeout=5)
                break
            if lab.poll() is not None:
                raise SystemExit(f"JupyterLab ended:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield f"http://localhost:{port}/doc/tree/{{}}?reset&token={token}"
    finally:
        lab.terminate()  # it ends its kernels
        try:
            lab.wait(20)
        except subprocess.TimeoutExpired:
            lab.kill()


def execute(page: Page, command: str, minutes: float = 2, **args) -> None:
    page.evaluate(EXECUTE, [command, args])
    page.wait_for_function("() => window.finished", timeout=minutes * 60_000, polling=100)


def stored_differently(page: Page, file: Path) -> list[str]:
    "What JupyterLab changes when it stores a notebook that was only opened. The version of Python is the reader's."
    before = file.read_text(encoding="utf-8").splitlines()
    execute(page, "docmanager:save")
    lines = difflib.unified_diff(before, file.read_text(encoding="utf-8").splitlines(), lineterm="", n=0)
    changes = [line.replace(" ", "") for line in lines if not line.startswith(("+++", "---", "@@"))]
    if all(line[1:].startswith('"version":') for line in changes):
        return []
    return [f"opened and stored, {len(changes)} lines differ: " + " ".join(changes)]


def lasting(page: Page, look: Callable[[], Iterable[str]]) -> list[str]:
    "Faults that are still there after ten seconds, since the page may be at work."
    for _ in range(20):
        if not (found := list(look())):
            break
        page.wait_for_timeout(500)
    return found


def move_sliders(page: Page, moves: int, faults: list[str]) -> dict[str, list[float]]:
    "Moves each slider up to `moves` times, a step each. For its name: milliseconds until its picture was another."
    answers = {}
    for number, handle in enumerate(page.query_selector_all(".jp-OutputArea [role=slider]"), 1):
        name = f"{number} {handle.evaluate(NAME)}"
        handle.scroll_into_view_if_needed(timeout=10_000)
        now, low, high = (float(handle.get_attribute(f"aria-value{which}")) for which in ("now", "min", "max"))
        key, steps = ("ArrowLeft", now - low) if now >= high else ("ArrowRight", high - now)
        answers[name] = []
        for _ in range(min(moves, round(steps))):
            handle.evaluate(WATCH)
            handle.press(key)
            if (answer := page.evaluate("window.answer")) is None:
                faults.append(f"slider {name!r} was moved, and no picture in its cell changed within 30 s")
                break
            answers[name].append(answer)
            faults += lasting(page, lambda: filter(None, [handle.evaluate(UNSPOKEN)]))
        if number == 1:
            says_that_it_waits(page, handle, faults)
    return answers


def says_that_it_waits(page: Page, handle, faults: list[str]) -> None:
    "Moves a slider while Python is busy: the page has to say so, until the picture is there."
    status = ".jp-OutputArea [role=status]:visible"
    before = handle.get_attribute("aria-valuenow")
    page.evaluate(HOLD_PYTHON)
    page.wait_for_timeout(300)
    handle.press("ArrowLeft")
    if handle.get_attribute("aria-valuenow") == before:
        handle.press("ArrowRight")
    try:
        page.wait_for_selector(status, timeout=30_000)
        page.wait_for_selector(status, state="detached", timeout=30_000)
    except Error:  # a time limit
        faults.append("a slider was moved while another cell ran, and did not say so, or went on saying so")


def take_pictures(page: Page, shots: Path, name: str) -> None:
    page.set_viewport_size(TALL)
    for theme in ("Light", "Dark"):
        execute(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
        for piece in range(30):
            at_end = page.evaluate(SCROLL, piece)
            page.wait_for_timeout(700)  # cells are drawn when they come into view
            page.screenshot(path=shots / f"{name}-{theme.lower()}-{piece + 1}.png", timeout=60_000)
            if at_end:
                break


def read(page: Page, address: str, file: Path, shots: Path | None, moves: int,
         faults: list[str]) -> tuple[float, dict[str, list[float]]]:
    "Opens one notebook, runs it and looks. Seconds of the run, and the answers of each slider."
    def listen(said):
        if said.type == "error" and not said.location["url"].startswith(tuple(ALLOWED)):
            faults.append(f"console: {said.text} ({said.location['url']})")

    page.on("console", listen)
    page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
    page.goto(address, timeout=120_000)
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.widgets", timeout=120_000)
    page.wait_for_function(IS_READY, timeout=120_000, polling=500)
    faults += stored_differently(page, file)
    start = time.perf_counter()
    execute(page, "notebook:run-all-cells", minutes=MINUTES)
    seconds = time.perf_counter() - start
    faults += page.evaluate(ERRORS) + page.evaluate(SPEECHLESS)
    faults += lasting(page, lambda: page.evaluate(FORMULAS))
    answers = move_sliders(page, moves, faults)
    if shots:
        take_pictures(page, shots, file.stem)
    return seconds, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks of this checkout (all of nbs/)")
    parser.add_argument("--python", default=sys.executable, help="the reader's Python (the one that runs this)")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser (the one on the path)")
    parser.add_argument("--shots", type=Path, help="folder for screenshots (none are taken)")
    parser.add_argument("--moves", type=int, default=1, help="how often each slider is moved (1)")
    parser.add_argument("--answers", type=Path, help="JSON file for the milliseconds of each slider (none is written)")
    options = parser.parse_args()
    if not options.chromium:
        parser.error("no chromium is on the path: install Debian's package, or name a browser with --chromium")
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    paths = [path.resolve().relative_to(ROOT) for path in options.notebooks or sorted((ROOT / "nbs").rglob("*.ipynb"))]
    paths = [path for path in paths if not path.name.startswith("_") and ".ipynb_checkpoints" not in path.parts]
    faulty, answers = 0, {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        copy_checkout(folder / "copy")
        address = stack.enter_context(jupyterlab(options.python, folder))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        print(f"{'chapter':24} {'seconds':>8} {'sliders':>8} {'median answer, ms':>18}", flush=True)
        for path in paths:
            page, seconds, faults = browser.new_page(viewport=WINDOW), math.nan, []
            try:
                file = folder / "copy" / path
                seconds, answers[path.stem] = read(page, address.format(path.as_posix()), file, options.shots,
                                                   options.moves, faults)
            except Error as error:  # a time limit, or a page that has crashed
                faults.append(str(error))
            times = [time for moved in answers.get(path.stem, {}).values() for time in moved]
            answer = f"{statistics.median(times):.0f}" if times else "-"
            print(f"{path.stem:24} {seconds:8.0f} {len(answers.get(path.stem, {})):8} {answer:>18}", flush=True)
            print("".join(f"    {' '.join(fault.split())[:600]}\n" for fault in faults), end="", flush=True)
            faulty += bool(faults)
            with contextlib.suppress(Error):
                page.evaluate("() => { jupyterapp.serviceManager.sessions.shutdownAll() }")
                page.wait_for_timeout(1000)
            page.close()
        browser.close()
    if options.answers:
        options.answers.write_text(json.dumps(answers))
    print(f"{len(paths) - faulty} notebooks read without a fault, {faulty} with")
    sys.exit(faulty > 0)


if __name__ == "__main__":
    main()
