# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from html.parser import HTMLParser


class Tags(HTMLParser):
    """The tags of a page, each of which should be closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.data = [], set(), ''
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.data += data
