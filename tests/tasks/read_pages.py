"""A page as a browser would take it: its words, its parts, and whatever in it could fetch, run or lead anywhere."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input", "use", "path", "rect", "circle"}
RUNS = {"script", "iframe", "object", "embed", "img", "image", "link", "base", "form", "foreignobject", "a", "audio"}


class Page(HTMLParser):
    """`faults` should be empty; `words` is what can be read, a blank wherever an element begins or ends."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: list[str] = []
        self._within: list[str] = []
        self._words: list[str] = []
        self.feed(html)
        self.close()

    @property
    def words(self) -> str:
        return " ".join("".join(self._words).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag in RUNS:
            self.faults.append(f"<{tag}>")
        for name, value in given.items():
            self._look_at(tag, name, value)
        if tag not in VOID:
            self._within.append(tag)
        self._words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            while self._within.pop() != tag:
                pass
        self._words.append(" ")

    def handle_data(self, data: str) -> None:
        if self._within and self._within[-1] == "style":
            if re.search(r"url\(|@import|expression|://", data):
                self.faults.append("a style that fetches")
        else:
            self._words.append(data)

    def _look_at(self, tag: str, name: str, value: str) -> None:
        leads = name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster", "background")
        if leads and not value.startswith("#"):
            self.faults.append(f"{name}={value}")
        if name.startswith("on"):
            self.faults.append(name)
        if name == "style" and re.search(r"url\((?!#)|@import|expression|://", value):
            self.faults.append(f"style={value}")
        if name == "id":
            self.ids.append(value)
