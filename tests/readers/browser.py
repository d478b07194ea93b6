"""Looks at a report in Chromium as a person does, and prints as JSON what there is to see.

usage: browser.py REPORT FOLDER

Screenshots go into FOLDER, at three widths, light and dark: of the first screen, and of the first cell that somebody has to look at,
which is opened by the keyboard alone.
"""

import argparse
import json
import os
import pathlib

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

WIDTHS = [360, 768, 1280]
HEIGHT = 900
# By so many steps whoever has no mouse gives up.
PATIENCE = 20

# The least contrast of any text that can be seen (WCAG 2.2, 1.4.3), and the text that has it. What an SVG says is left out: its letters
# lie on bars whose place the browser does not tell.
CONTRAST = """
const parse = text => { const n = text.match(/[0-9.]+/g).map(Number); return {rgb: n.slice(0, 3), alpha: n.length > 3 ? n[3] : 1}; };
const light = rgb => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
                       return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = node => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c.alpha === 1) return c.rgb; }
                         return [255, 255, 255]; };
let least = {ratio: 21, text: ''};
for (const node of document.querySelectorAll('body *:not(svg, svg *)')) {
  const text = [...node.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
  if (!text || !node.checkVisibility()) continue;
  const [a, b] = [light(parse(getComputedStyle(node).color).rgb), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < least.ratio) least = {ratio, text};
}
return least;
"""

OPENED = """
const article = document.activeElement.closest('article') || document.querySelector(':target');
const inside = selector => [...article.querySelectorAll(selector)];
const box = article.getBoundingClientRect();
return {
  cell: article.id,
  open: article.closest('details').open,
  in_view: box.top >= 0 && box.top < innerHeight,
  lanes: inside('.timeline .names text').map(t => t.textContent),
  bars: inside('.timeline g title').map(t => t.textContent),
  arrows: inside('.timeline path.ipi title').map(t => t.textContent),
  broken: inside('.timeline text.breach').map(t => t.textContent),
  bits: inside('.timeline path.bits').length,
  console: inside('.console .line').map(l => ({cut: l.classList.contains('cut'), text: l.textContent})),
  notes: inside('.notes tbody').length,
  command: inside('.command').map(c => c.textContent),
  visible: inside('.timeline svg, .console, .notes, .command').every(e => e.checkVisibility({contentVisibilityAuto: true})),
};
"""


class Browser:
    def __init__(self):
        options = Options()
        arguments = ["--headless=new", "--hide-scrollbars", "--force-device-scale-factor=1"]
        # Chromium's sandbox refuses root.
        if os.getuid() == 0:
            arguments.append("--no-sandbox")
        for argument in arguments:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)

    def looks(self, width, scheme):
        command = self.driver.execute_cdp_cmd
        metrics = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        command("Emulation.setDeviceMetricsOverride", metrics)
        command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def script(self, text):
        return self.driver.execute_script(text)

    def press(self, *keys):
        chain = ActionChains(self.driver)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        chain.perform()

    def requests(self):
        """What was asked for beside the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "file:"))]


def first_screen(browser, folder, width, scheme):
    browser.looks(width, scheme)
    browser.script("scrollTo(0, 0)")
    browser.driver.save_screenshot(str(folder / f"first-{width}-{scheme}.png"))
    return browser.script(
        """
        const first = document.querySelector('.look > li');
        const box = first && first.getBoundingClientRect();
        return {
          beyond: document.documentElement.scrollWidth - innerWidth,
          says: first ? first.innerText : '',
          whole: box ? box.bottom <= innerHeight : false,
          paper: getComputedStyle(document.documentElement).backgroundColor,
        };
        """
    ) | {"width": width, "scheme": scheme, "contrast": browser.script(CONTRAST)}


def by_keyboard(browser):
    """Goes by the tabulator key to the first link to a cell, and follows it."""
    for steps in range(1, PATIENCE):
        browser.press(Keys.TAB)
        if browser.script("return document.activeElement.matches('.look a, a.tile')"):
            browser.press(Keys.ENTER)
            return steps
    raise SystemExit(f"no link to a cell within {PATIENCE} steps of the tabulator key")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    browser = Browser()
    try:
        browser.looks(WIDTHS[-1], "light")
        browser.driver.get(arguments.report.resolve().as_uri())
        seen = {"title": browser.driver.title, "open_at_first": browser.script("return document.querySelectorAll('details[open]').length")}
        screens = [(width, scheme) for width in WIDTHS for scheme in ("light", "dark")]
        seen["screens"] = [first_screen(browser, arguments.folder, *screen) for screen in screens]
        browser.looks(WIDTHS[-1], "light")
        seen["steps"] = by_keyboard(browser)
        seen["opened"] = browser.script(OPENED)
        seen["opened_looks"] = []
        for width, scheme in screens:
            browser.looks(width, scheme)
            browser.script("document.querySelector(':target').scrollIntoView()")
            browser.driver.save_screenshot(str(arguments.folder / f"opened-{width}-{scheme}.png"))
            beyond = browser.script("return document.documentElement.scrollWidth - innerWidth")
            seen["opened_looks"].append({"beyond": beyond, "contrast": browser.script(CONTRAST)})
        # The way back: what opened it is right before it.
        browser.press(Keys.SHIFT, Keys.TAB)
        seen["before"] = browser.script("return document.activeElement.tagName")
        browser.press(Keys.ENTER)
        seen["closed_again"] = browser.script("return document.querySelectorAll('details.cell[open]').length === 0")
        seen["requests"] = browser.requests()
        seen["complaints"] = [entry["message"] for entry in browser.driver.get_log("browser")]
    finally:
        browser.driver.quit()
    print(json.dumps(seen))


main()
