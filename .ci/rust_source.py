"""What .ci/layers and .ci/words need to know of Rust's syntax, and no more."""

import re

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<block>/\*)
      | (?P<string>b?r(?P<hashes>\#*)".*?"(?P=hashes) | b?c?"(?:\\.|[^"\\])*")
      | (?P<char>b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\])')""",
    re.VERBOSE | re.DOTALL,
)


def blank(text):
    """The text as spaces, with its line breaks."""
    return re.sub(r"[^\n]", " ", text)


def code(text):
    """The source without comments and the content of strings: the same places, filled with spaces."""
    parts, at = [], 0
    while match := _TOKEN.search(text, at):
        begin, end = match.span()
        if match["block"]:
            # Block comments nest.
            depth = 1
            while depth and (edge := re.compile(r"/\*|\*/").search(text, end)):
                depth += 1 if edge[0] == "/*" else -1
                end = edge.end()
        parts += [text[at:begin], blank(text[begin:end])]
        at = end
    return "".join(parts) + text[at:]


def _end_of_item(source, at):
    """Where the item that begins here ends: behind its `;`, `,` or closing brace."""
    depth = 0
    for place in range(at, len(source)):
        sign = source[place]
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
            if depth < 0:
                return place
            if depth == 0 and sign == "}" and not re.match(r"\s*;", source[place + 1 :]):
                return place + 1
        elif sign in ";," and depth == 0:
            return place + 1
    return len(source)


def without_tests(source):
    """Code without the items under `#[cfg(test)]`, and the names of the modules among these that are
    files of their own."""
    modules = []
    while match := re.search(r"#\[cfg\(test\)\]", source):
        end = _end_of_item(source, match.end())
        item = source[match.start() : end]
        if module := re.search(r"\bmod\s+(\w+)\s*;", item):
            modules.append(module[1])
        source = source[: match.start()] + blank(item) + source[end:]
    return source, modules
