"""Plain words in documentation and code; short lines and working links in documentation."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    Span = tuple[int, int]

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

FOLDERS: Final = ("arraystore", "benchmarks", "scripts", "tests")
PENDING: Final[frozenset[str]] = frozenset()
"""Files with former prose; each is to be rewritten and removed from here."""

MODULES: Final = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__) and path.relative_to(ROOT).as_posix() not in PENDING
)
"""Python files whose comments, docstrings, messages and names of tests are checked."""

MAX_LINE: Final = 100
MAX_TEST_NAME: Final = 65

_WITHIN_A_SENTENCE: Final = r"(?:[^.?:#|\n]|\n(?!\s*\n))*"

DISCOURAGED: Final = {
    r"\b(tells?|telling|told)\b": "report, raise, record or show",
    r"\bbut for\b": "except",
    r"\bdear(er|est)?\b": "expensive",
    r"\banew\b": "again",
    r"\bafar\b": "remotely",
    r"\b(?-i:Whoever|Whatever)\b": "name the subject",
    r"\b(as ever|by the way|in the way|now and then)\b": "leave it out",
    r"\bc[ao]mes? of\b": "result",
    r"(?<!\bthere\s)\bis no\b(?! (longer|more)\b)": "is not a",
    r"\bany ?more\b": "no longer",
    r"\bof which\b": "an active verb, in a sentence of its own",
    rf"\b(?-i:What) (is|was|has|comes)\b{_WITHIN_A_SENTENCE}\b(is|are)\b": "begin with the subject",
    r"\bshort(er|est)? way\b": "name what is bypassed",
    r"\bway out\b": "remedy",
    r"\b(is|are|was|were) asked (of|for)\b": "requested",
    r"\b(is|are) not there\b": "does not exist",
    r"\bbeliev\w+": "trust, or check",
    r"\bheed(s|ed)?\b": "respect",
    r"\bat the begin\b": "at the beginning",
    r"\b(go|goes|going|went) on\b": "continue",
    r"\bof \S+'s making\b": "created by",
    r"\b(rooms?|floors?|doors?|sisters?)\b": "module, layer, entry point or counterpart; space",
}
"""Words that hide what happens, and what to write instead. A blank stands for any white space."""

FENCED: Final = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_NOT_PROSE: Final = (
    FENCED.pattern,
    r"`+[^`]+`+",
    r"<!--.*?-->",
    r"\]\([^)]*\)",  # the target of a link
    r"https?://\S+",
)
NOT_PROSE: Final = re.compile("|".join(f"(?:{p})" for p in _NOT_PROSE), re.DOTALL | re.MULTILINE)
BETWEEN_WORDS: Final = re.compile(
    # Before Python 3.12 a formatted string is one token, with the expressions in its braces.
    r"""\{[^{}\n]*\}  |  "\s*\n\s*[a-z]?"  |  ^\ *\#""",
    re.MULTILINE | re.VERBOSE,
)
PROSE_TOKENS: Final = {
    number
    for number, name in tokenize.tok_name.items()
    if name in {"COMMENT", "STRING", "FSTRING_MIDDLE"}
}


def blanked(text: str, spans: Iterable[Span]) -> str:
    """Replace parts of a text by blanks, so that lines keep their numbers."""
    pieces, at = [], 0
    for start, end in spans:
        lines = text[start:end].split("\n")
        pieces += [text[at:start], "\n".join(" " * len(line) for line in lines)]
        at = end
    return "".join([*pieces, text[at:]])


def prose_of_page(text: str) -> str:
    """Blank everything in a Markdown page that is not prose."""
    return blanked(text, (match.span() for match in NOT_PROSE.finditer(text)))


def prose_of_code(text: str) -> str:
    """Blank everything in a Python file except its comments and strings."""
    starts = [0]
    for line in io.StringIO(text):
        starts.append(starts[-1] + len(line))
    spans, end = [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in PROSE_TOKENS:
            spans.append((end, starts[token.start[0] - 1] + token.start[1]))
            end = starts[token.end[0] - 1] + token.end[1]
    without_code = blanked(text, [*spans, (end, len(text))])
    between = (match.span() for match in BETWEEN_WORDS.finditer(without_code))
    return prose_of_page(blanked(without_code, between))


def discouraged(prose: str) -> list[str]:
    """Return the place of each discouraged word, with what to write instead."""
    found = []
    # Most of a Python file is blanked, and most files have none of the words.
    dense = re.sub(r"\n\s*\n\s*", "\n\n", re.sub(r"[^\S\n]+", " ", prose))
    for pattern, instead in DISCOURAGED.items():
        if not re.search(pattern.replace(" ", r"\s+"), dense, re.IGNORECASE):
            continue
        for match in re.finditer(pattern.replace(" ", r"\s+"), prose, re.IGNORECASE):
            line = prose.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: {' '.join(match.group().split())!r}; write: {instead}")
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the files and anchors that a page links to."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text)
    return [((page.parent / name).resolve() if name else page, at) for name, at in targets]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_page_uses_plain_words(page: Path) -> None:
    assert discouraged(prose_of_page(page.read_text(encoding="utf-8"))) == []


def test_code_uses_plain_words() -> None:
    found = {
        named(path): words
        for path in MODULES
        if (words := discouraged(prose_of_code(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_tests_have_plain_short_names() -> None:
    names = {
        f"{named(path)}: {name}": name
        for path in MODULES
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert not [place for place, name in names.items() if discouraged(name.replace("_", " "))]
    assert not [place for place, name in names.items() if len(name) > MAX_TEST_NAME]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_page_lines_are_short(page: Path) -> None:
    lines = prose_of_page(page.read_text(encoding="utf-8")).splitlines()
    raw = page.read_text(encoding="utf-8").splitlines()
    long = [
        number
        for number, (line, prose) in enumerate(zip(raw, lines, strict=True), start=1)
        # Tables cannot be wrapped; of a line with a link or code alone, the prose counts.
        if len(line) > MAX_LINE and not line.startswith("|") and len(prose.rstrip()) > MAX_LINE
    ]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_page_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_readme_links_to_every_page() -> None:
    linked = {target for target, _ in links(ROOT / "README.md")}
    assert {page for page in PAGES if page.parent.name == "docs"} <= linked


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It is read\nbut\nfor one.", 1),
        ("It tells `told` and [a](tell.md).\n\n```\ntold\n```\n", 1),
        ("There is no class, and it is no longer stored.", 0),
        ("It is no class.", 1),
        ("What is measured\n\nThe time is measured.", 0),
        ("What is left of a split is a split.", 1),
    ],
)
def test_discouraged_words_are_found_only_in_prose(text: str, count: int) -> None:
    assert len(discouraged(prose_of_page(text))) == count


def test_code_is_checked_only_in_comments_and_strings() -> None:
    code = '''
told = f"{tell} anew"  # dear
"""Whatever `told`

is
afar."""
# It is there, but
# for `told`.
error = (
    f"{told}: all but "
    f"for {tell}"
)
'''
    places = [found.partition(":")[0] for found in discouraged(prose_of_code(code))]
    assert sorted(places) == ["line 10", "line 2", "line 2", "line 3", "line 6", "line 7"]
